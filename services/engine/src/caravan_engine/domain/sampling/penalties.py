"""Repetition penalties over a window of the latest tokens, with llama.cpp's arithmetic."""

from collections import deque
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from caravan_engine.domain.sampling.options import SamplingOptions


class PenaltyWindow:
    """Counts the tokens of the window and penalises their logits.

    The obvious structure is a `Counter`, but turning it into arrays costs as much as the window is
    long, every step. So ids and counts live in arrays already, packed at the front; a dict says
    where each token is, and a token that leaves is overwritten by the last one.

    Rebuildable: accepting a history again gives the same window. Owned by the decode thread.
    """

    def __init__(self, options: SamplingOptions) -> None:
        size = options.penalty_last_n
        self._repeat = np.float32(options.repeat_penalty)
        self._frequency = np.float32(options.frequency_penalty)
        self._presence = np.float32(options.presence_penalty)
        self._size = size
        self._window: deque[int] = deque()
        self._ids = np.zeros(size, np.int64)
        self._counts = np.zeros(size, np.float32)
        self._places: dict[int, int] = {}

    def accept(self, tokens: Iterable[int]) -> None:
        """Moves the window over `tokens`, oldest first."""
        for token in tokens:
            if len(self._window) == self._size:
                self._leave(self._window.popleft())
            self._window.append(token)
            self._enter(token)

    def apply(self, logits: npt.NDArray[np.float32]) -> None:
        """Changes the logits of the window's tokens in place."""
        num_distinct = len(self._places)
        ids, counts = self._ids[:num_distinct], self._counts[:num_distinct]
        seen = logits[ids]
        seen = np.where(seen <= 0, seen * self._repeat, seen / self._repeat)
        logits[ids] = seen - (counts * self._frequency + self._presence)

    def _enter(self, token: int) -> None:
        place = self._places.get(token)
        if place is None:
            place = self._places[token] = len(self._places)
            self._ids[place] = token
            self._counts[place] = 0
        self._counts[place] += 1

    def _leave(self, token: int) -> None:
        place = self._places[token]
        self._counts[place] -= 1
        if self._counts[place] == 0:
            self._remove(token, place)

    def _remove(self, token: int, place: int) -> None:
        last = len(self._places) - 1
        moved = int(self._ids[last])
        self._ids[place], self._counts[place] = moved, self._counts[last]
        self._places[moved] = place
        del self._places[token]
