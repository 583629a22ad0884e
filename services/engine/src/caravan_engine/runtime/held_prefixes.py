"""Which beginnings of inputs a worker still has, by the marks that gateways sent along with them.

A gateway doesn't tokenize and a worker doesn't hash texts, so neither can ask the other about a
text. The worker remembers the latest inputs and their marks, and looks how much of them is stored.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

Tokens = tuple[int, ...]

_MOST_INPUTS = 128
_MOST_TOKENS = 8192  # of an input; what is longer is not looked at
MOST_HASHES = 4096  # that are told


@dataclass(frozen=True, slots=True)
class MarkedInput:
    """An input and its marks: hash, and how much of the input its beginning is, 0 to 1."""

    root: bytes  # of its tenant
    tokens: Tokens
    marks: tuple[tuple[int, float], ...]

    def held(self, num_stored: int) -> list[int]:
        """The marks whose beginnings are among the first `num_stored` tokens."""
        # The last token of an input is always computed anew, and never stored for its own sake.
        size = max(1, len(self.tokens) - 1)
        return [mark for mark, share in self.marks if 0 < share * size <= num_stored]


class HeldPrefixes:
    """Belongs to the event loop.

    Args:
        stored_lengths: Asks the decode thread how much of texts is stored.
    """

    def __init__(
        self, stored_lengths: Callable[[Sequence[tuple[bytes, Tokens]]], Future[list[int]]]
    ) -> None:
        self._stored_lengths = stored_lengths
        self._inputs: OrderedDict[tuple[int, ...], MarkedInput] = OrderedDict()

    def note(self, given: MarkedInput) -> None:
        """Remembers an input, and forgets the one that came longest ago."""
        if not given.marks or len(given.tokens) > _MOST_TOKENS:
            return
        key = tuple(mark for mark, _ in given.marks)
        self._inputs.pop(key, None)
        self._inputs[key] = given
        if len(self._inputs) > _MOST_INPUTS:
            self._inputs.popitem(last=False)

    async def look(self) -> tuple[int, ...]:
        """Returns the marks of what is stored now, the latest input's first."""
        inputs = list(reversed(self._inputs.values()))
        if not inputs:
            return ()
        texts = [(each.root, each.tokens) for each in inputs]
        lengths = await asyncio.wrap_future(self._stored_lengths(texts))
        held = (
            mark for each, length in zip(inputs, lengths, strict=True) for mark in each.held(length)
        )
        return tuple(dict.fromkeys(held))[:MOST_HASHES]
