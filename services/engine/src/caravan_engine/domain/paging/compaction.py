"""Keeps the highest used cell low, on which the cost of every step depends on a CPU."""

from collections.abc import Iterable

from caravan_engine.domain.paging.cell_work import CellWork
from caravan_engine.domain.paging.page_costs import PageCosts

_LEAST_GAP = 256  # llama.cpp looks at cells in blocks of so many
_MOST_TOKENS = 1024  # of one step
_STRETCH = 256


class Compactor:
    """Moves what lies highest into holes below. Owned by the decode thread.

    When sequences end, holes remain under those that go on, and every step still looks at all
    cells up to the highest one. Moving costs half a millisecond for 256 tokens of a 0.5B model;
    looking at as many unused cells costs as much with every step.
    """

    def __init__(self, work: CellWork, costs: PageCosts) -> None:
        self._work = work
        self._costs = costs

    def compact(self, seats: Iterable[int]) -> None:
        """Plans moves of some stretches, as far as they pay."""
        cells = self._work.cells
        moved, seat_ids = 0, tuple(seats)
        while moved < _MOST_TOKENS:
            gap = cells.highest_used - cells.num_used
            if gap < _LEAST_GAP or not self._costs.pays_to_compact(gap, _STRETCH):
                return
            stretch = cells.highest_stretch(seat_ids, _STRETCH)
            if stretch is None:
                return
            seq_ids, start, end = stretch
            self._work.relocate(seq_ids, start, end)
            moved += end - start
