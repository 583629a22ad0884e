"""The map of cells against the plainest form of llama.cpp's rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caravan_engine.domain.paging.cell_map import CellMap

NUM_CELLS, NUM_SEATS = 40, 3


class PlainCells:
    """A set of sequences per cell; each token takes the lowest cell that has none."""

    def __init__(self):
        self.cells = [{} for _ in range(NUM_CELLS)]  # sequence -> position

    def take(self, seq_id, start, num):
        free = [index for index, holders in enumerate(self.cells) if not holders]
        for position, index in zip(range(start, start + num), free, strict=False):
            self.cells[index][seq_id] = position

    def share(self, source, target, start, end):
        for holders in self.cells:
            if start <= holders.get(source, -1) < end:
                holders[target] = holders[source]

    def release(self, seq_id, start, end):
        for holders in self.cells:
            if start <= holders.get(seq_id, -1) < end:
                del holders[seq_id]

    def order(self, seq_id):
        return tuple(holders[seq_id] for holders in self.cells if seq_id in holders)

    def length(self, seq_id):
        return len(self.order(seq_id))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "share", "release", "release tail"]),
        st.integers(0, 4),
        st.integers(0, 4),
        st.integers(1, 12),
    ),
    max_size=40,
)


@given(STEPS)
def test_it_knows_the_same_as_a_search_through_all_cells(steps):
    cells, plain = CellMap(NUM_CELLS, NUM_SEATS), PlainCells()
    for kind, one, other, num in steps:
        length = plain.length(one)
        if kind == "take" and num <= cells.num_free:
            cells.take(one, length, num)
            plain.take(one, length, num)
        elif kind == "share" and one != other and not plain.length(other):
            cells.share(one, other, 0, min(num, length))
            plain.share(one, other, 0, min(num, length))
        elif kind == "release":
            cells.release(one)
            plain.release(one, 0, NUM_CELLS)
        elif kind == "release tail":
            cells.release(one, length // 2, length)
            plain.release(one, length // 2, length)
        used = [index for index, holders in enumerate(plain.cells) if holders]
        assert cells.num_used == len(used)
        assert cells.num_computing == sum(
            any(seq_id < NUM_SEATS for seq_id in holders) for holders in plain.cells
        )
        assert cells.num_free == NUM_CELLS - len(used)
        assert cells.highest_used == (used[-1] + 1 if used else 0)
        assert cells.positions() == {s: plain.order(s) for s in range(5) if plain.length(s)}
        for seq_id in range(5):
            alone = sum(set(holders) == {seq_id} for holders in plain.cells)
            assert cells.num_exclusive(seq_id) == alone


def test_more_than_there_are_cannot_be_taken():
    cells = CellMap(8, 2)
    cells.take(0, 0, 5)
    with pytest.raises(ValueError, match="4 cells wanted, 3 are free"):
        cells.take(1, 0, 4)


def test_a_position_is_taken_once():
    cells = CellMap(8, 2)
    cells.take(0, 0, 3)
    with pytest.raises(ValueError, match="already"):
        cells.take(0, 2, 1)
    cells.take(1, 0, 2)
    with pytest.raises(ValueError, match="already"):
        cells.share(0, 1, 1, 3)


def test_the_highest_stretch_is_shared_by_the_same_sequences_throughout():
    cells = CellMap(32, 2)
    cells.take(9, 0, 8)  # a hole, later
    cells.take(0, 0, 6)
    cells.share(0, 1, 0, 4)
    cells.take(1, 4, 3)
    cells.release(9)
    assert cells.highest_stretch([0, 1], 10) == ((1,), 4, 7)
    cells.release(1, 4, 7)
    assert cells.highest_stretch([0, 1], 10) == ((0,), 4, 6)
    cells.release(0, 4, 6)
    seq_ids, start, end = cells.highest_stretch([0, 1], 3)
    assert (set(seq_ids), start, end) == ({0, 1}, 1, 4)
    assert cells.highest_stretch([7], 3) is None


def test_an_empty_map_begins_anew_at_the_lowest_cell():
    cells = CellMap(64, 4)
    cells.take(0, 0, 8)
    with pytest.raises(ValueError, match="8 cells are in use"):
        cells.reset()
    cells.release(0)
    cells.reset()
    cells.take(1, 0, 2)
    assert cells.cells(1, 0, 2).tolist() == [0, 1]
    assert (cells.num_used, cells.highest_used) == (2, 2)
