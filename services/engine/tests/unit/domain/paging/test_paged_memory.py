"""Which pages stay in cells and in the host's memory, and for how long."""

from itertools import pairwise

import pytest

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.paging.moves import Export, Import, Relocate

PREFIX = bytes(range(40))
DEVICE = {"cells_cost_time": False, "num_shelf_ids": 4}


def test_images_keep_to_their_budget_and_the_oldest_go(make_rig):
    rig = make_rig(kv={"host_budget_bytes": 24 * 100})
    texts = [bytes([n] * 40) for n in range(6)]
    for text in texts:
        rig.complete(rig.submit(text, max_output=1))
    host = rig.kv.store.host
    assert host.num_bytes <= 24 * 100
    assert host.num_bytes == sum(len(n.image.data) for n in rig.kv.store.tree if n.image)
    newest, oldest = (rig.submit(texts[index], max_output=1) for index in (-1, 0))
    rig.complete(newest, oldest)
    assert (newest.group.cached_tokens, oldest.group.cached_tokens) == (39, 0)


def test_a_smaller_budget_takes_effect_at_once(make_rig):
    rig = make_rig()
    rig.complete(*[rig.submit(bytes([n] * 40), max_output=1) for n in range(6)])
    rig.kv.store.resize(host_bytes=24 * 50, disk_bytes=None)
    assert 0 < rig.kv.store.host.num_bytes <= 24 * 50
    rig.kv.store.resize(host_bytes=0, disk_bytes=None)
    assert rig.kv.store.num_pages == rig.kv.store.host.num_bytes == 0


def test_without_a_budget_nothing_is_copied(make_rig):
    rig = make_rig(kv={"host_budget_bytes": 0})
    rig.complete(*[rig.submit(PREFIX, max_output=3) for _ in range(3)])
    assert not rig.moves(Export)
    assert rig.kv.store.num_pages == 0


@pytest.mark.parametrize(("coalesces", "num_pages"), [(True, 4), (False, 5)])
def test_adjacent_partial_pages_become_one(make_rig, coalesces, num_pages):
    rig = make_rig(kv={"coalesces": coalesces, "page_size": 16})
    first = rig.submit(PREFIX, max_output=1)  # pages of 16, 16 and 8
    rig.complete(first)
    prompt = PREFIX + b"x" * 24  # two pages and a half more
    again = rig.submit(prompt, max_output=1)
    rig.complete(again)
    assert rig.kv.store.num_pages == num_pages
    assert rig.kv.store.num_coalesced == coalesces
    last = rig.submit(prompt + b"y", max_output=1)
    rig.complete(last)
    assert last.group.cached_tokens == 64


def test_the_only_page_of_a_tenant_becomes_a_longer_one(make_rig):
    rig = make_rig()
    rig.complete(rig.submit(b"short", max_output=1))
    rig.complete(rig.submit(b"short, then", max_output=1))
    assert len(list(rig.kv.store.tree)) == rig.kv.store.num_pages == 1
    last = rig.submit(b"short, then longer", max_output=1)
    rig.complete(last)
    assert last.group.cached_tokens == 11


def test_on_a_device_idle_pages_stay_in_the_cells(make_rig):
    rig = make_rig(kv=DEVICE)
    rig.complete(rig.submit(PREFIX, max_output=8))
    again = rig.submit(PREFIX + b"more", max_output=2)
    rig.complete(again)
    assert again.group.cached_tokens == 40
    assert not rig.moves(Import)
    assert not rig.moves(Export)


def test_watermarks_decide_when_idle_pages_leave_the_cells_and_nothing_thrashes(make_rig):
    kv = {**DEVICE, "num_shelf_ids": 100}
    rig = make_rig(FakeBackend(num_cells=400), num_seats=2, context_tokens=64, kv=kv)
    exported_at = []
    for number in range(60):
        rig.complete(rig.submit(bytes([number] * 32), max_output=1))
        rig.step()
        rig.carry_out_moves()
        assert rig.kv.cells.num_used <= 0.85 * 400 + 32
        exported_at.append(len(rig.moves(Export)))
    grown = [later - earlier for earlier, later in pairwise(exported_at)]
    assert max(grown) <= 8  # from the upper mark to the lower one
    assert grown.count(0) >= len(grown) // 2  # then it is quiet for a while


def test_idle_pages_leave_the_cells_for_those_who_compute(make_rig):
    rig = make_rig(FakeBackend(num_cells=100), context_tokens=100, kv=DEVICE)
    rig.complete(rig.submit(PREFIX, max_output=8))
    large = rig.submit(b"z" * 80, max_output=19)
    rig.complete(large)
    assert rig.observer.num_parkings == 0
    again = rig.submit(PREFIX, max_output=1)
    rig.complete(again)
    assert again.group.cached_tokens == 39  # they went to host memory


def test_holes_are_filled_from_above(make_rig):
    rig = make_rig(FakeBackend(num_cells=4096), num_seats=3, token_budget=512)
    first = rig.submit(b"a" * 500, max_output=4)
    second = rig.submit(bytes(b"b" * 500), max_output=200)
    for _ in range(3):
        rig.step()
    assert rig.kv.cells.highest_used > 1000
    while not first.output.finished:
        rig.step()
    for _ in range(3):
        rig.step()
        rig.check_integrity()
    assert rig.moves(Relocate)
    assert rig.kv.cells.highest_used - rig.kv.cells.num_used < 256
    rig.complete(first, second)


def test_memory_that_cannot_be_cut_is_kept_as_a_whole(make_rig):
    rig = make_rig(kv={"can_cut": False}, can_share=False)
    first = rig.submit(PREFIX, max_output=8)
    rig.complete(first)
    goes_on = rig.submit(PREFIX + bytes(first.output.tokens) + b"?", max_output=2)
    turns_away = rig.submit(PREFIX + b"elsewhere", max_output=2)
    rig.complete(goes_on, turns_away)
    assert (goes_on.group.cached_tokens, turns_away.group.cached_tokens) == (47, 0)
