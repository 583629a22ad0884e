"""Which pages stay where while nobody uses them."""

import pytest

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.kv_numbers import MoveTimes
from caravan_engine.domain.paging.cell_map import CellMap
from caravan_engine.domain.paging.cell_work import CellWork
from caravan_engine.domain.paging.compaction import Compactor
from caravan_engine.domain.paging.page_costs import PageCosts
from caravan_engine.domain.request import ClientKey

PREFIX = bytes(range(32))  # two pages
CPU = {"cells_cost_time": True, "num_shelf_ids": 4}
DEVICE = {"cells_cost_time": False, "num_shelf_ids": 100}


def use(rig, text, **fields):
    """Runs a request to its end and returns how much of its text was found."""
    sequence = rig.submit(text, max_output=1, **fields)
    rig.complete(sequence)
    return sequence.group.cached_tokens


# ── cells of a CPU ──


def test_a_page_in_constant_use_stays_in_the_cells_until_it_no_longer_pays(make_rig):
    rig = make_rig(kv=CPU)
    for number in range(40):  # in a second
        use(rig, PREFIX + bytes([100 + number]))
    assert rig.kv.cells.num_used == rig.kv.store.shelf.num_tokens == 32
    for number in range(60):  # in six seconds
        rig.clock.advance(0.1)
        assert use(rig, PREFIX + bytes([140 + number])) == 32
    assert rig.kv.store.num_cell_evictions == 0

    rig.clock.advance(100)
    rig.step()
    rig.carry_out_moves()
    assert rig.kv.cells.num_used == len(rig.kv.store.shelf) == 0
    assert use(rig, PREFIX + b"?") == 32  # it has an image in host memory


def test_a_page_that_is_used_now_and_then_does_not_stay_in_the_cells(make_rig):
    rig = make_rig(kv=CPU)
    for number in range(5):
        rig.clock.advance(10)
        assert use(rig, PREFIX + bytes([100 + number])) == (32 if number else 0)
        rig.step()
        assert rig.kv.cells.num_used == 0
    assert rig.kv.store.num_cell_evictions == 0  # it was never let in


@pytest.mark.parametrize("moving_s", [1e-6, 1.0])
def test_holes_are_filled_only_if_moving_takes_less_than_it_saves(moving_s):
    work, costs = CellWork(CellMap(4096, 2), 2), PageCosts()
    for _ in range(100):
        costs.moved(MoveTimes(exported_tokens=16, export_s=16 * moving_s))
    work.cells.take(0, 0, 1000)
    work.cells.take(1, 0, 300)
    work.release(0)
    work.take_moves()
    Compactor(work, costs).compact([0, 1])
    assert work.is_empty == (moving_s == 1.0)
    assert work.cells.highest_used == (1300 if moving_s == 1.0 else 300)


# ── who goes first ──


def test_the_page_unused_longest_leaves_the_cells_of_a_device_first(make_rig):
    rig = make_rig(FakeBackend(num_cells=200), num_seats=2, context_tokens=64, kv=DEVICE)
    texts = [bytes([number] * 32) for number in range(5)]
    for text in texts:
        use(rig, text)
    assert use(rig, texts[0]) == 31  # now it is the one used last
    use(rig, bytes([9] * 32))
    rig.step()
    assert rig.kv.store.num_cell_evictions > 0
    still = {node.tokens[0] for node in rig.kv.store.shelf}
    assert 0 in still
    assert 1 not in still


def test_the_image_unused_longest_leaves_host_memory_first(make_rig):
    rig = make_rig(kv={"host_budget_bytes": 24 * 32 * 3})
    texts = [bytes([number] * 32) for number in range(4)]
    for text in texts[:3]:
        use(rig, text)
    assert use(rig, texts[0]) == 31
    use(rig, texts[3])
    assert [use(rig, texts[0]), use(rig, texts[1])] == [31, 0]


# ── whose it is ──


def test_what_another_tenant_is_computing_makes_no_request_seem_smaller(make_rig):
    rig = make_rig(FakeBackend(num_cells=100), context_tokens=100)
    first = rig.submit(b"x" * 60, max_output=20, client=ClientKey("acme"))
    rig.step()
    other = rig.submit(b"x" * 60, max_output=20, client=ClientKey("other"))
    while not first.output.finished:
        rig.step()
        assert first.output.finished or other.seat is None  # there are not cells for both
    rig.complete(other)
    assert rig.observer.num_parkings == 0


def test_with_a_lower_mark_of_nothing_all_idle_pages_leave_together(make_rig):
    marks = {"start_watermark": 0.5, "stop_watermark": 0.0}
    rig = make_rig(
        FakeBackend(num_cells=100), num_seats=2, context_tokens=64, kv={**DEVICE, **marks}
    )
    for number in range(2):
        use(rig, bytes([number] * 32))
    rig.step()
    rig.carry_out_moves()
    assert rig.kv.cells.num_used == 0
    assert use(rig, bytes([1] * 32)) == 31  # from host memory
