"""Turns the three kinds of input into prompt tokens, and tokens into text.

Holds the rule that users write plain text.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from caravan_engine.domain.errors import EmptyInputError
from caravan_engine.domain.ports import Vocabulary
from caravan_engine.domain.request import check_client_tokens, check_token_ids
from caravan_engine.prompts.cutting import MAX_PIECE_CHARS, cut
from caravan_engine.prompts.errors import NoChatTemplateError
from caravan_engine.prompts.masking import ControlTexts, Message, Piece

T = TypeVar("T")

# Up to these sizes a thread costs more than it spares the event loop.
_INLINE_CHARS = 4096
_INLINE_TOKENS = 4096


class PromptVocabulary(Vocabulary, Protocol):
    """A vocabulary that also knows how its control tokens are written."""

    @property
    def control_texts(self) -> Mapping[int, str]:
        """Texts of the tokens that only count where `parse_special` is set."""
        ...


class Renderer(Protocol):
    """Renders chats; see `ChatRenderer`."""

    async def render(self, *conversations: Sequence[Message]) -> list[str]:
        """Returns a prompt for each conversation."""
        ...


class PromptMaker:
    """Makes prompts for one model. Belongs to the event loop.

    Large inputs are tokenized in one thread beside it: more would take cores from the decode
    thread, whose spinning companions make every other thread twice as dear.
    """

    def __init__(
        self,
        vocabulary: PromptVocabulary,
        *,
        model: str,
        bos: int | None,
        splits_words: bool,
        renderer: Renderer | None,
    ) -> None:
        """Prepares prompts for `model`.

        Args:
            vocabulary: the model's tokens.
            model: its name, for errors.
            bos: the token that text begins with, where the model wants one.
            splits_words: whether its tokenizer first splits text into words (byte-pair models).
            renderer: renders chats; None where the model has no template that works.
        """
        self._vocabulary = vocabulary
        self._model = model
        self._bos = bos if bos is not None and _begins_with(vocabulary, bos) else None
        self._splits_words = splits_words
        self._renderer = renderer
        self._controls = ControlTexts(vocabulary.control_texts.values())
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenize")

    def close(self) -> None:
        """Drops what waits to be tokenized."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def of_text(self, text: str) -> tuple[int, ...]:
        """Tokenizes plain text, begun as the model expects.

        Raises:
            EmptyInputError: there is none.
        """
        if not text:
            raise EmptyInputError
        return await self._run(len(text) <= _INLINE_CHARS, lambda: self._plain(text))

    async def of_tokens(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """Takes tokens as they are.

        Raises:
            EmptyInputError: there are none.
            TokenOutOfRangeError: one is outside the vocabulary or a control token.
        """
        if not token_ids:
            raise EmptyInputError
        return await self._run(len(token_ids) <= _INLINE_TOKENS, lambda: self._checked(token_ids))

    async def of_chat(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Renders a chat by the model's template and tokenizes it.

        Raises:
            EmptyInputError: there are no messages.
            NoChatTemplateError: the model has no template that works.
            ChatTemplateFailedError: it refuses these messages.
            RenderQueueFullError: too many wait already.
        """
        if not messages:
            raise EmptyInputError
        if self._renderer is None:
            raise NoChatTemplateError(self._model)
        chat = self._controls.mask(messages, secrets.token_hex(8))
        natural, neutral = await self._renderer.render(chat.natural, chat.neutral)
        return await self._run(
            len(natural) <= _INLINE_CHARS,
            lambda: self._rendered(self._controls.choose(natural, neutral), chat.originals),
        )

    async def text_of(self, token_ids: Sequence[int]) -> str:
        """Writes tokens out; what is no UTF-8 shows as U+FFFD, control tokens as nothing.

        Raises:
            TokenOutOfRangeError: one is outside the vocabulary.
        """
        return await self._run(len(token_ids) <= _INLINE_TOKENS, lambda: self._text(token_ids))

    async def _run(self, is_small: bool, work: Callable[[], T]) -> T:
        if is_small:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _plain(self, text: str) -> tuple[int, ...]:
        if not self._splits_words or len(text) <= MAX_PIECE_CHARS:
            return tuple(self._vocabulary.tokenize(text, add_special=True, parse_special=False))
        begin = [] if self._bos is None else [self._bos]
        return (*begin, *self._words(text))

    def _words(self, text: str) -> Iterator[int]:
        """Tokenizes plain text of any length for a model whose tokenizer splits words."""
        for piece in cut(text):
            yield from self._vocabulary.tokenize(piece, add_special=False, parse_special=False)

    def _checked(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        check_client_tokens(token_ids, self._vocabulary)
        return tuple(token_ids)

    def _text(self, token_ids: Sequence[int]) -> str:
        check_token_ids(token_ids, self._vocabulary)
        pieces = self._vocabulary.pieces
        return b"".join(pieces[token] for token in token_ids).decode(errors="replace")

    def _rendered(self, prompt: str, originals: Mapping[str, str]) -> tuple[int, ...]:
        tokens: list[int] = []
        for piece in self._controls.pieces(prompt, originals):
            tokens += self._piece(piece)
        # Some templates write the BOS token themselves; two of them confuse models.
        if self._bos is not None and tokens[:1] != [self._bos]:
            tokens.insert(0, self._bos)
        return tuple(tokens)

    def _piece(self, piece: Piece) -> Iterable[int]:
        if self._splits_words and len(piece.text) > MAX_PIECE_CHARS:
            return self._long_piece(piece)
        return self._vocabulary.tokenize(
            piece.text, add_special=False, parse_special=piece.controls_count
        )

    def _long_piece(self, piece: Piece) -> Iterator[int]:
        if not piece.controls_count:
            yield from self._words(piece.text)
            return
        for index, stretch in enumerate(self._controls.stretches(piece.text)):
            if index % 2:
                yield from self._vocabulary.tokenize(stretch, add_special=False, parse_special=True)
            elif stretch:
                yield from self._words(stretch)


def _begins_with(vocabulary: Vocabulary, bos: int) -> bool:
    return vocabulary.tokenize("a", add_special=True, parse_special=False)[:1] == [bos]
