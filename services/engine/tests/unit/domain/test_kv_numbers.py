"""Counters that are kept as things happen, against what is counted afterwards."""

import random

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.kv_numbers import KvUnit
from caravan_engine.domain.paging.moves import Export, Import, Relocate

PREFIX = bytes(range(40))


def check(rig):
    """Compares the snapshot with everything that can be looked through."""
    seen, kv = rig.kv.snapshot(), rig.kv
    pages = list(kv.store.tree)
    idle = [page for page in pages if page.shelf is not None]
    images = [page.image for page in pages if page.image is not None]
    positions = kv.cells.positions()
    assert seen.stored.num_idle == len(idle)
    assert kv.num_idle == sum(len(page.tokens) for page in idle)
    assert seen.stored.num_host == len(images)
    assert seen.stored.num_host_bytes == sum(len(image.data) for image in images)
    assert seen.stored.num_host_tokens == sum(len(image.info.tokens) for image in images)
    assert seen.num_used_cells == rig.backend.num_used_cells
    running = {seat for seat in positions if seat < rig.limits.num_seats}
    assert (seen.num_computing_cells > 0) == bool(running)
    assert seen.num_idle_cells == 0 or idle
    assert seen.num_used_cells <= seen.highest_used_cell <= rig.limits.num_cells
    assert seen.num_seated == len(rig.scheduler.running)
    parked = [each for each in rig.groups if each.is_parked and each.live]
    assert rig.scheduler.num_parked == len(parked)


def drive(rig, seed):
    choose = random.Random(seed)
    rig.groups = []
    for _ in range(150):
        if choose.random() < 0.3:
            prompt = PREFIX[: choose.randrange(4, 40)] + bytes([200 + choose.randrange(4)])
            priority = choose.choice((0, 10, 50))
            rig.groups.append(rig.submit_group(prompt, max_output=12, priority=priority))
        if rig.groups and choose.random() < 0.05:
            rig.scheduler.cancel(choose.choice(rig.groups), rig.clock())
        rig.clock.advance(0.1)
        rig.step()
        rig.carry_out_moves()
        check(rig)


def moved(rig, kind):
    return [move for plan in rig.plans for move in plan.moves if isinstance(move, kind)]


def test_numbers_are_those_of_what_is_there(make_rig):
    for seed in range(4):
        rig = make_rig(FakeBackend(num_cells=96), kv={"host_budget_bytes": 2000})
        drive(rig, seed)
        seen = rig.kv.snapshot()
        assert seen.moves.num_exports == len(moved(rig, Export)) > 0
        assert seen.moves.num_imports == len(moved(rig, Import)) > 0
        assert seen.moves.num_relocations == len(moved(rig, Relocate))
        assert seen.stored.num_host_evictions > 0
        assert seen.moves.export_s > 0


def test_idle_pages_in_cells_are_counted_on_a_device(make_rig):
    rig = make_rig(FakeBackend(num_cells=96), kv={"cells_cost_time": False, "num_shelf_ids": 4})
    drive(rig, 5)
    assert rig.kv.snapshot().stored.num_cell_evictions > 0


def test_whole_sequences_are_named_and_counted_as_such(make_rig):
    rig = make_rig(kv={"can_cut": False})
    rig.submit(PREFIX)
    rig.step()
    seen = rig.kv.snapshot()
    assert (seen.unit, seen.page_size, seen.num_cell_pages) == (KvUnit.SEQUENCES, 0, 1)
    assert (make_rig().kv.snapshot().unit, make_rig().kv.snapshot().page_size) == ("pages", 16)


def test_cells_in_use_make_pages_the_last_of_which_may_be_partial(make_rig):
    rig = make_rig()
    rig.submit(b"x" * 17)
    rig.step()
    assert rig.kv.snapshot().num_cell_pages == 2
