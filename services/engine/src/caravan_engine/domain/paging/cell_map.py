"""Which cells of llama.cpp hold what, kept beside it, because it doesn't tell."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

_NONE = -1
_LEAST_WINDOW = 1024


class CellMap:
    """A mirror of llama.cpp's unified cache: it allots the lowest free cells, in batch order.

    llama.cpp says neither how many cells are free nor which is the highest one in use, on which
    the cost of each step depends. But its search begins at the lowest cell that was freed, so where
    things go follows from what was asked. The obvious way, to count tokens per sequence, counts
    cells double that several sequences share.

        cell      0 1 2 3 4 5 6 7
        sequence  a a a b b . c .      num_used 6, highest_used 7, the next token goes to 5

    Owned by the decode thread. A sequence may have holes; those that compute never do.

    Args:
        num_cells: Cells of the context.
        num_seats: Sequence ids below this one compute; the others only keep pages.
    """

    def __init__(self, num_cells: int, num_seats: int) -> None:
        self.num_cells = num_cells
        self.num_used = 0
        self.num_computing = 0  # used by sequences that compute
        self._num_seats = num_seats
        self._computing = np.zeros(num_cells, np.int16)  # how many of the holders compute
        self._holders = np.zeros(num_cells, np.int16)  # sequences that have the cell
        self._cells: dict[int, npt.NDArray[np.int32]] = {}  # by position; _NONE: not there
        self._lowest_free = 0  # no free cell is below
        self._highest: int | None = 0  # None: to be looked for

    @property
    def num_free(self) -> int:
        """Cells that nobody has."""
        return self.num_cells - self.num_used

    @property
    def highest_used(self) -> int:
        """Cells up to and with the highest one in use."""
        if self._highest is None:
            used = np.flatnonzero(self._holders)
            self._highest = int(used[-1]) + 1 if used.size else 0
        return self._highest

    def take(self, seq_id: int, start: int, num: int) -> None:
        """Gives a sequence cells for positions `start` on.

        Raises:
            ValueError: if they aren't there; the caller asks first.
        """
        row = self._row(seq_id, start + num)
        if num == 1 and not self._holders[self._lowest_free % self.num_cells]:
            self._take_lowest(seq_id, row, start)
            return
        found = self._find_free(num)
        if np.any(row[start : start + num] != _NONE):
            raise ValueError(f"sequence {seq_id} has some of {num} positions from {start} already")
        row[start : start + num] = found
        self._holders[found] = 1
        self.num_used += num
        if seq_id < self._num_seats:
            self._computing[found] = 1
            self.num_computing += num
        if num:
            self._lowest_free = int(found[-1]) + 1
            self._highest = max(self.highest_used, self._lowest_free)

    def _take_lowest(self, seq_id: int, row: npt.NDArray[np.int32], position: int) -> None:
        """The step of a sequence that decodes, without the cost of arrays."""
        if row[position] != _NONE:
            raise ValueError(f"sequence {seq_id} has position {position} already")
        cell = self._lowest_free
        row[position] = cell
        self._holders[cell] = 1
        self.num_used += 1
        if seq_id < self._num_seats:
            self._computing[cell] = 1
            self.num_computing += 1
        self._lowest_free = cell + 1
        self._highest = max(self.highest_used, cell + 1)

    def share(self, source: int, target: int, start: int, end: int) -> None:
        """Lets a sequence have the positions of another one too."""
        cells = self.cells(source, start, end)
        held = cells != _NONE
        row = self._row(target, end)[start:end]
        if np.any((row != _NONE) & held):
            raise ValueError(f"sequence {target} has some of [{start}, {end}) already")
        row[held] = cells[held]
        self._holders[cells[held]] += 1
        self._count(target, cells[held], 1)

    def release(self, seq_id: int, start: int = 0, end: int | None = None) -> None:
        """Takes positions away from a sequence, all by default; they may not be there."""
        row = self._cells.get(seq_id)
        if row is None:
            return
        part = row[start:end]
        cells = part[part != _NONE]
        part[:] = _NONE
        self._holders[cells] -= 1
        self._count(seq_id, cells, -1)
        freed = cells[self._holders[cells] == 0]
        if freed.size:
            self.num_used -= freed.size
            self._lowest_free = min(self._lowest_free, int(freed.min()))
            self._highest = None
        if end is None and start == 0:
            del self._cells[seq_id]

    def reset(self) -> None:
        """Begins anew, as llama.cpp does when all of its memory is cleared.

        Raises:
            ValueError: somebody has cells.
        """
        if self.num_used:
            raise ValueError(f"{self.num_used} cells are in use")
        self._cells.clear()
        self._lowest_free, self._highest = 0, 0

    def cells(self, seq_id: int, start: int, end: int) -> npt.NDArray[np.int32]:
        """Returns the cell of each position of a range: # (end - start,), -1 for none."""
        row = self._cells.get(seq_id)
        part = np.empty(0, np.int32) if row is None else row[start:end]
        missing = end - start - part.size
        return np.pad(part, (0, missing), constant_values=_NONE) if missing else part

    def num_exclusive(self, seq_id: int, start: int = 0) -> int:
        """Returns how many cells would be free without a sequence's positions from `start` on."""
        row = self._cells.get(seq_id)
        if row is None:
            return 0
        cells = row[start:]
        return int(np.count_nonzero(self._holders[cells[cells != _NONE]] == 1))

    def highest_stretch(
        self, seq_ids: Sequence[int], num: int
    ) -> tuple[tuple[int, ...], int, int] | None:
        """Returns at most `num` positions up to the one in the highest cell, after who has them.

        All of them are had by the same sequences. None if the highest cell is not of `seq_ids`.
        """
        top = self.highest_used - 1
        for seq_id in seq_ids:
            row = self._cells.get(seq_id)
            if row is None:
                continue
            found = np.flatnonzero(row == top)
            if found.size:
                return self._stretch_up_to(seq_id, int(found[0]) + 1, num)
        return None

    def _stretch_up_to(
        self, seq_id: int, end: int, num: int
    ) -> tuple[tuple[int, ...], int, int] | None:
        first = max(0, end - num)
        mine: npt.NDArray[np.int32] = self._cells[seq_id][first:end]
        together = {seq_id: np.ones(mine.size, np.bool_)}
        for other, row in self._cells.items():
            part = row[first:end]
            if other != seq_id and part.size == mine.size and part[-1] == mine[-1]:
                together[other] = part == mine
        has_all = np.logical_and.reduce(list(together.values()))
        has_all &= self._holders[mine] == len(together)
        gaps = np.flatnonzero(~has_all)
        start = first + (int(gaps[-1]) + 1 if gaps.size else 0)
        return (tuple(together), start, end) if start < end else None

    def positions(self) -> Mapping[int, tuple[int, ...]]:
        """Returns the positions of each sequence that has any, in the order of their cells."""
        found = {}
        for seq_id, row in self._cells.items():
            held = np.flatnonzero(row != _NONE)
            if held.size:
                found[seq_id] = tuple(held[np.argsort(row[held])].tolist())
        return found

    def _count(self, seq_id: int, cells: npt.NDArray[np.int32], change: int) -> None:
        """Follows which cells are used by sequences that compute."""
        if seq_id < self._num_seats:
            before = np.count_nonzero(self._computing[cells])
            self._computing[cells] += change
            self.num_computing += int(np.count_nonzero(self._computing[cells]) - before)

    def _find_free(self, num: int) -> npt.NDArray[np.int64]:
        if num > self.num_free:
            raise ValueError(f"{num} cells wanted, {self.num_free} are free")
        window = max(_LEAST_WINDOW, 4 * num)
        first = self._lowest_free
        while True:
            found = np.flatnonzero(self._holders[first : first + window] == 0)
            if found.size >= num or first + window >= self.num_cells:
                return found[:num] + first
            window *= 4

    def _row(self, seq_id: int, length: int) -> npt.NDArray[np.int32]:
        row = self._cells.get(seq_id)
        if row is None or row.size < length:
            grown = np.full(max(length, 256 if row is None else 2 * row.size), _NONE, np.int32)
            if row is not None:
                grown[: row.size] = row
            row = self._cells[seq_id] = grown
        return row
