"""Keeps what users write from becoming control tokens when a chat template is rendered. Pure.

The rendered prompt is one string in which the template's own control tokens have to count and the
users' must not. So each control token's text inside a message is replaced by a placeholder before
rendering, and put back afterwards as plain text.

A message can also complete a control token together with the template's text around it. To notice
that, the chat is rendered a second time with each message wholly replaced (`neutral`): all control
tokens of that text are the template's own. If the natural text has others, the neutral one is used.

The obvious way, marking where each message begins and ends, changes what the template does: it
trims messages and looks at how they begin.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

# Private-use characters: no vocabulary has a token for them, no template looks for them.
_OPEN, _CLOSE = "\ue000", "\ue001"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a prompt; control tokens in it count, or are plain text."""

    text: str
    controls_count: bool


@dataclass(slots=True)
class MaskedChat:
    """A chat made safe to render, and how to get back what was replaced."""

    natural: list[Message] = field(default_factory=list)
    neutral: list[Message] = field(default_factory=list)
    originals: dict[str, str] = field(default_factory=dict)


class ControlTexts:
    """The texts of a vocabulary's control tokens, of which the longest at a place counts."""

    def __init__(self, texts: Iterable[str]) -> None:
        ordered = sorted({text for text in texts if text.strip()}, key=len, reverse=True)
        # The second half never matches anything; an empty alternation would match everywhere.
        self._pattern = re.compile("|".join(map(re.escape, ordered)) or r"(?!)")

    def mask(self, messages: Sequence[Message], nonce: str) -> MaskedChat:
        """Prepares `messages` for rendering; `nonce` must be unguessable and used once."""
        chat = MaskedChat()

        def placeholder(original: str) -> str:
            name = f"{_OPEN}{nonce}.{len(chat.originals)}{_CLOSE}"
            chat.originals[name] = original
            return name

        for message in messages:
            natural = self._pattern.sub(lambda match: placeholder(match[0]), message.content)
            chat.natural.append(Message(message.role, natural))
            chat.neutral.append(Message(message.role, placeholder(message.content)))
        return chat

    def choose(self, natural: str, neutral: str) -> str:
        """Returns the natural text, or the neutral one where messages would add control tokens."""
        same = self._pattern.findall(natural) == self._pattern.findall(neutral)
        return natural if same else neutral

    def pieces(self, prompt: str, originals: Mapping[str, str]) -> Iterator[Piece]:
        """Splits a rendered prompt so that only the template's control tokens count.

        It is split at control tokens only, where tokenizers split anyway: no word is torn.
        """
        counting: list[str] = []
        for text in self.stretches(prompt):
            restored = _restore(text, originals)
            if restored == text:
                counting.append(text)
                continue
            if counting:
                yield Piece("".join(counting), controls_count=True)
                counting.clear()
            yield Piece(restored, controls_count=False)
        if counting:
            yield Piece("".join(counting), controls_count=True)

    def stretches(self, prompt: str) -> Iterator[str]:
        """Yields text and control tokens in turn, beginning and ending with text."""
        end = 0
        for match in self._pattern.finditer(prompt):
            yield prompt[end : match.start()]
            yield match[0]
            end = match.end()
        yield prompt[end:]


def _restore(text: str, originals: Mapping[str, str]) -> str:
    if _OPEN not in text:
        return text
    names = map(re.escape, originals)
    return re.sub("|".join(names) or r"(?!)", lambda match: originals[match[0]], text)
