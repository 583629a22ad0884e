"""Tokens to text while they arrive: whole characters only, nothing of a stop string."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from caravan_engine.domain.stop_strings import StopMatcher


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text that may be shown, and exactly the tokens that it consists of."""

    text: str
    token_ids: tuple[int, ...]


NOTHING = TextPiece("", ())


class Detokenizer:
    """Holds tokens back while their text isn't certain; owned by the decode thread.

    A token is held while its bytes end inside a character, or while its text may be the beginning
    of a stop string. Held tokens leave whole, so the text of what leaves is the text of its tokens,
    except at the end: a stop string is cut off, though its tokens leave too. Invalid bytes become
    U+FFFD. The joined text doesn't depend on how bytes are divided into tokens.

        text of held tokens:  |  tok  |  en |  s  |
        certain up to here:            ^            (characters left of it can leave)

    Args:
        pieces: The bytes of each token of the vocabulary.
        stops: Stop strings; `stop_string` says which one was found.
    """

    def __init__(self, pieces: Sequence[bytes], stops: Sequence[str] = ()) -> None:
        self._pieces = pieces
        self._matcher = StopMatcher(stops) if stops else None
        self._tail = b""  # an incomplete character
        self._text = ""  # text of the held tokens, but for the tail
        self._held: list[int] = []
        self._ends: list[int | None] = []  # where in _text each held token ends, if it does
        self.stop_string: str | None = None

    def append(self, token: int) -> TextPiece:
        """Takes the next token; returns what has become certain, perhaps nothing.

        After a stop string was found everything has left and nothing may be appended.
        """
        new_text = self._decode(self._pieces[token])
        self._held.append(token)
        if self._matcher is None:
            return self._all(self._text + new_text) if not self._tail else self._hold(new_text)
        match = self._matcher.feed(new_text)
        if match is not None:
            self.stop_string = match.stop
            end = max(0, len(self._text) + match.start)  # what `skip` read has left already
            return self._all((self._text + new_text)[:end])
        self._hold(new_text)
        self._ends.append(None if self._tail else len(self._text))
        return self._certain(len(self._text) - self._matcher.num_undecided)

    def skip(self, tokens: Sequence[int]) -> None:
        """Reads what has left already, text and all, from another detokenizer of this text.

        Whole tokens leave, so no text is half out; but they may hold the beginning of a stop
        string, or all of one.
        """
        for token in tokens:
            if self.stop_string is None:
                self.append(token)
        self._all("")

    def spell(self, token: int) -> str:
        """Returns a token's text by itself; a part of a character is U+FFFD."""
        return self._pieces[token].decode(errors="replace")

    def flush(self) -> TextPiece:
        """Returns everything held; the tokens are over."""
        return self._all(self._text + self._tail.decode(errors="replace"))

    def _decode(self, piece: bytes) -> str:
        data = self._tail + piece
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._tail = data[used:]
        return text

    def _hold(self, new_text: str) -> TextPiece:
        self._text += new_text
        return NOTHING

    def _all(self, text: str) -> TextPiece:
        tokens = tuple(self._held)
        self._held.clear()
        self._ends.clear()
        self._text, self._tail = "", b""
        return TextPiece(text, tokens)

    def _certain(self, length: int) -> TextPiece:
        """Lets the longest run of tokens go that ends at a character within `length`."""
        num_tokens, end = 0, 0
        for index, token_end in enumerate(self._ends, 1):
            if token_end is not None and token_end <= length:
                num_tokens, end = index, token_end
        return self._let_go(num_tokens, end) if num_tokens else NOTHING

    def _let_go(self, num_tokens: int, end: int) -> TextPiece:
        piece = TextPiece(self._text[:end], tuple(self._held[:num_tokens]))
        self._text = self._text[end:]
        del self._held[:num_tokens]
        left = self._ends[num_tokens:]
        self._ends = [None if each is None else each - end for each in left]
        return piece
