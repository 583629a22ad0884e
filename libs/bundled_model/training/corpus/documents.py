"""The form of a training document: spans of text that count more or less in the loss."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tokenizer import IM_END, IM_START

Role = Literal["system", "user", "assistant", "tool"]
_ASKED = 0.05
"""How much a token counts that the model never has to write."""
_FRAME = 0.0
PROSE = 0.4
"""Stories have the most tokens, and the least that has to be exact."""
COPIED = 3.0
"""Words of an answer that have to be copied from far away."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str
    copied: tuple[str, ...] = ()
    """Words of the content that stand somewhere before."""


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a document.

    With `special` the text is one of the tokenizer's specials. `may_jump` marks a place in front
    of which positions may skip ahead, as if more text stood there.
    """

    text: str
    weight: float
    special: bool = False
    may_jump: bool = False


Document = list[Span]


def chat(messages: Sequence[Message], *, weight: float = 1.0) -> Document:
    """Lays out a chat exactly as the template in the model's file does.

    Args:
        messages: the turns.
        weight: how much the tokens of answers count.
    """
    spans: Document = []
    for message in messages:
        counts = weight if message.role == "assistant" else _ASKED
        end = weight if message.role == "assistant" else _FRAME
        spans += [
            Span(IM_START, _FRAME, special=True),
            Span(f"{message.role}\n", _FRAME),
            *_content(message, counts),
            Span(IM_END, end, special=True),
            Span("\n", _FRAME),
        ]
    return spans


def _content(message: Message, weight: float) -> Iterator[Span]:
    """Cuts out the copied words with the space before them, as the tokenizer does."""
    if not message.copied:
        yield Span(message.content, weight, may_jump=message.role == "user")
        return
    words = "|".join(re.escape(word) for word in message.copied)
    for rank, text in enumerate(re.split(rf"( ?\b(?:{words})\b)", message.content)):
        if text:
            yield Span(text, COPIED if rank % 2 else weight)


def plain(text: str) -> Document:
    """A text outside of any chat; it ends like an answer."""
    return [Span(text, PROSE), Span(IM_END, PROSE, special=True)]


def with_jumps(spans: Document) -> Document:
    """Cuts the user's long texts behind each sentence, so that positions may skip there."""
    cut: Document = []
    for span in spans:
        if not span.may_jump:
            cut.append(span)
            continue
        first, *others = span.text.split(". ")
        cut.append(Span(first, span.weight))
        cut += [Span(f". {text}", span.weight, may_jump=True) for text in others]
    return cut
