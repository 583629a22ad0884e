"""DRY: penalises the tokens that would go on with a sequence seen before."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from caravan_engine.domain.sampling.options import DryOptions

_LARGEST_LOG = 88.7228391  # of a float32


class RepetitionWindow:
    """Knows, for each place of a window of the latest tokens, how much of the end it repeats.

        tokens   a b c c b c y a b c
        lengths  0 0 3 1 0 2 0 0 0 .     `a b c` ends at the 3: a `c` now would repeat four

    The obvious way searches the window anew for each token (the Z algorithm, as llama.cpp does),
    which Python takes a quarter of a millisecond for. But after a further token `t` each length
    is its left neighbour's plus one where the window has `t`, and zero elsewhere: one pass of
    numpy. Rebuildable from a history. Owned by the decode thread.

    Source: the DRY sampler by p-e-w, with the arithmetic of llama.cpp. Unlike llama.cpp, which
    looks for the tokens that a sequence breaker would be cut into, breakers are found in the text:
    so they are found however they were cut, and no vocabulary has to be searched for them.

    Args:
        options: What the request says.
        pieces: The bytes of each token of the vocabulary.
    """

    def __init__(self, options: DryOptions, pieces: Sequence[bytes]) -> None:
        size = options.penalty_last_n
        self._options = options
        self._pieces = pieces
        self._breakers = tuple(breaker.encode() for breaker in options.sequence_breakers)
        self._num_kept_bytes = max(map(len, self._breakers), default=1) - 1
        self._size = size
        self._num = 0
        self._tokens = np.zeros(size, np.int64)
        self._lengths = np.zeros(size, np.int32)
        self._is_breaker = np.zeros(size, np.bool_)
        self._num_since_breaker = size  # tokens after the last one that completed a breaker
        self._tail = b""  # end of the text, as long as a breaker may begin in it
        self._places = np.arange(1, size + 1, dtype=np.int32)
        self._max_exponent = _max_exponent(options.base)

    def begin(self, history: Sequence[int]) -> None:
        """Takes a whole history at once; what was there before is forgotten."""
        kept = history[-self._size :]
        self._num = len(kept)
        self._num_since_breaker, self._tail = self._size, b""
        for token in self._before_window(history):
            self._read(token)
        self._tokens[: self._num] = kept
        self._is_breaker[: self._num] = [self._read(token) for token in kept]
        self._lengths[: self._num] = _common_ends(kept)

    def _before_window(self, history: Sequence[int]) -> Sequence[int]:
        """Tokens before the window in which a breaker may begin that ends in it."""
        before = history[: -self._size]
        return before[-self._num_kept_bytes :] if self._num_kept_bytes else ()

    def accept(self, tokens: Iterable[int]) -> None:
        """Moves the window over `tokens`, oldest first."""
        for token in tokens:
            if self._num == self._size:
                self._forget_oldest()
            num = self._num
            grown = self._lengths[: max(num - 1, 0)] + 1
            same = self._tokens[:num] == token
            self._lengths[:1] = 1
            self._lengths[1:num] = grown
            self._lengths[:num] *= same
            self._tokens[num] = token
            self._is_breaker[num] = self._read(token)
            self._num = num + 1

    def apply(self, logits: npt.NDArray[np.float32]) -> None:
        """Changes the logits of the tokens that would repeat in place."""
        limit = min(self._num, self._num_since_breaker)
        allowed = self._options.allowed_length
        if self._num <= allowed or limit < allowed:
            return
        ends = self._num - 1
        repeated = np.minimum(self._lengths[:ends], self._places[:ends])
        found = ((repeated >= allowed) & ~self._is_breaker[1 : self._num]).nonzero()[0]
        if found.size:
            lengths = np.minimum(repeated[found], limit)
            self._penalize(logits, self._tokens[found + 1], lengths - allowed)

    def _penalize(
        self,
        logits: npt.NDArray[np.float32],
        tokens: npt.NDArray[np.int64],
        exponents: npt.NDArray[np.int32],
    ) -> None:
        """Subtracts for each token what its longest repetition costs."""
        order = np.argsort(-exponents, kind="stable")
        ids, firsts = np.unique(tokens[order], return_index=True)
        longest = np.minimum(exponents[order][firsts], self._max_exponent)
        costs = np.float32(self._options.multiplier) * self._base**longest
        logits[ids] -= costs.astype(np.float32)

    @property
    def _base(self) -> np.float64:
        return np.float64(np.float32(self._options.base))

    def _forget_oldest(self) -> None:
        for array in (self._tokens, self._lengths, self._is_breaker):
            array[:-1] = array[1:]
        self._num -= 1

    def _read(self, token: int) -> bool:
        """Takes a token's text; returns whether it holds a breaker by itself."""
        piece = self._pieces[token]
        known = len(self._tail)
        text = self._tail + piece
        completes = any(
            text.find(breaker, max(0, known - len(breaker) + 1)) >= 0 for breaker in self._breakers
        )
        self._num_since_breaker = 0 if completes else self._num_since_breaker + 1
        self._tail = text[-self._num_kept_bytes :] if self._num_kept_bytes else b""
        return completes and any(breaker in piece for breaker in self._breakers)


def _max_exponent(base: float) -> int:
    """Returns the exponent from which on float32 would overflow."""
    return int(_LARGEST_LOG / math.log(base)) if base > 1.000001 else 2**31 - 1


def _common_ends(tokens: Sequence[int]) -> list[int]:
    """Returns for each place how many tokens up to it are the same as the last ones.

    The last place itself counts as nothing. Source: the Z algorithm, read from the end.
    """
    return [0, *_common_beginnings(tokens[::-1])][::-1][: len(tokens)] if tokens else []


def _common_beginnings(tokens: Sequence[int]) -> Iterator[int]:
    """Yields for each place but the first how far it goes on like the beginning."""
    num = len(tokens)
    lengths = [0] * num
    left = right = 0  # the stretch [left, right) reaches furthest of those found
    for place in range(1, num):
        length = min(right - place, lengths[place - left]) if place < right else 0
        while place + length < num and tokens[length] == tokens[place + length]:
            length += 1
        if place + length > right:
            left, right = place, place + length
        lengths[place] = length
        yield length
