"""What is shared, stored, parked and moved, as seen from what the backend was made to compute."""

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.paging.moves import Export, Import, Relocate, Wipe
from caravan_engine.domain.paging.page_image import root_key
from caravan_engine.domain.request import ClientKey

PREFIX = bytes(range(40))
DEVICE = {"cells_cost_time": False, "num_shelf_ids": 4}


def num_computed(rig):
    return sum(plan.num_tokens for plan in rig.backend.plans)


def moves(rig, kind):
    return [move for plan in rig.plans for move in plan.moves if isinstance(move, kind)]


def run(rig, *sequences):
    rig.complete(*sequences)


# ── sharing ──


def test_a_beginning_that_several_have_is_computed_once(make_rig):
    rig = make_rig(token_budget=64)
    sequences = [rig.submit(PREFIX + bytes([200 + n] * 3), max_output=4) for n in range(4)]
    run(rig, *sequences)
    assert num_computed(rig) == 40 + 4 * 3 + 4 * 3
    assert [each.group.cached_tokens for each in sequences] == [0, 40, 40, 40]


def test_who_comes_while_it_is_computed_waits_for_it(make_rig):
    rig = make_rig(token_budget=8)
    first = rig.submit(PREFIX, max_output=2)
    rig.step()
    second = rig.submit(PREFIX + b"more", max_output=2)
    run(rig, first, second)
    assert num_computed(rig) == 40 + 1 + 4 + 1


def test_who_waits_for_a_beginning_goes_on_when_it_is_cancelled(make_rig):
    rig = make_rig(token_budget=8)
    first = rig.submit(PREFIX, max_output=2)
    rig.step()
    second = rig.submit(PREFIX + b"more", max_output=2)
    rig.step()
    rig.scheduler.cancel(first.group, rig.clock())
    run(rig, second)
    assert second.group.cached_tokens in (8, 16)  # what was computed until then


def test_what_ended_is_found_again_also_in_the_middle_of_a_page(make_rig):
    rig = make_rig()
    run(rig, rig.submit(PREFIX, max_output=8))
    before = num_computed(rig)
    later = rig.submit(PREFIX[:29] + b"another way", max_output=1)
    run(rig, later)
    assert later.group.cached_tokens == 29
    assert num_computed(rig) - before == 11


def test_a_conversation_goes_on_from_its_answer(make_rig):
    rig = make_rig()
    first = rig.submit(PREFIX, max_output=20)
    run(rig, first)
    prompt = PREFIX + bytes(first.output.tokens) + b"and then?"
    second = rig.submit(prompt, max_output=3)
    run(rig, second)
    assert second.group.cached_tokens == 40 + 20 - 1  # the last token was never computed


def test_other_tenants_compute_for_themselves(make_rig):
    rig = make_rig()
    run(rig, rig.submit(PREFIX, max_output=2, client=ClientKey("acme")))
    stranger = rig.submit(PREFIX, max_output=2, client=ClientKey("other"))
    run(rig, stranger)
    assert stranger.group.cached_tokens == 0
    both = [rig.submit(b"x" * 40, max_output=2, client=ClientKey(name)) for name in ("a", "b")]
    run(rig, *both)
    assert [each.group.cached_tokens for each in both] == [0, 0]


@pytest.mark.parametrize("kv", [{}, DEVICE, {"can_cut": False}], ids=["host", "device", "wholes"])
def test_what_another_tenant_has_stored_changes_no_step(make_rig, kv):
    """Steps are what timing follows from: who asks learns nothing of what others asked."""

    def steps(stored_by):
        rig = make_rig(kv=kv, token_budget=16, can_share=kv.get("can_cut", True))
        for text in (PREFIX, PREFIX + b"and more", b"something else"):
            run(rig, rig.submit(text, max_output=12, client=ClientKey(stored_by)))
        rig.plans.clear()
        probe = rig.submit(PREFIX + b"and more?", max_output=6, client=ClientKey("prober"))
        run(rig, probe)
        shapes = [
            tuple((chunk.start, len(chunk.tokens)) for chunk in plan.chunks) for plan in rig.plans
        ]
        return probe.group.cached_tokens, list(filter(None, shapes))

    def alone():
        rig = make_rig(kv=kv, token_budget=16, can_share=kv.get("can_cut", True))
        probe = rig.submit(PREFIX + b"and more?", max_output=6, client=ClientKey("prober"))
        run(rig, probe)
        return [
            tuple((chunk.start, len(chunk.tokens)) for chunk in plan.chunks)
            for plan in rig.plans
            if plan.chunks
        ]

    cached, with_others = steps("somebody")
    assert cached == 0
    assert with_others == alone()
    own_cached, _ = steps("prober")
    assert own_cached == (0 if kv.get("can_cut") is False else 48)  # his own would be found


# ── memory of the host ──


def test_images_keep_to_their_budget_and_the_oldest_go(make_rig):
    rig = make_rig(kv={"host_budget_bytes": 24 * 100})
    texts = [bytes([n] * 40) for n in range(6)]
    for text in texts:
        run(rig, rig.submit(text, max_output=1))
    host = rig.kv.store.host
    assert host.num_bytes <= 24 * 100
    assert host.num_bytes == sum(len(n.image.data) for n in rig.kv.store.tree if n.image)
    newest, oldest = (rig.submit(texts[index], max_output=1) for index in (-1, 0))
    run(rig, newest, oldest)
    assert (newest.group.cached_tokens, oldest.group.cached_tokens) == (39, 0)


def test_a_smaller_budget_takes_effect_at_once(make_rig):
    rig = make_rig()
    run(rig, *[rig.submit(bytes([n] * 40), max_output=1) for n in range(6)])
    rig.kv.store.resize(host_bytes=24 * 50, disk_bytes=None)
    assert 0 < rig.kv.store.host.num_bytes <= 24 * 50
    rig.kv.store.resize(host_bytes=0, disk_bytes=None)
    assert rig.kv.store.num_pages == rig.kv.store.host.num_bytes == 0


def test_without_a_budget_nothing_is_copied(make_rig):
    rig = make_rig(kv={"host_budget_bytes": 0})
    run(rig, *[rig.submit(PREFIX, max_output=3) for _ in range(3)])
    assert not moves(rig, Export)
    assert rig.kv.store.num_pages == 0


def test_the_pages_of_a_tenant_can_be_dropped_and_are_zeroed(make_rig):
    rig = make_rig()
    for name in ("acme", "other"):
        run(rig, rig.submit(PREFIX, max_output=2, client=ClientKey(name)))
    root = root_key("", "acme")
    images = [node.image for node in rig.kv.store.tree if node.info.root == root]
    assert rig.kv.store.drop_all(root) == len(images) > 0
    assert all(bytes(image.data) == bytes(len(image.data)) for image in images)
    kept = rig.submit(PREFIX, max_output=1, client=ClientKey("other"))
    gone = rig.submit(PREFIX, max_output=1, client=ClientKey("acme"))
    run(rig, kept, gone)
    assert (kept.group.cached_tokens, gone.group.cached_tokens) == (39, 0)


@pytest.mark.parametrize(("coalesces", "num_pages"), [(True, 4), (False, 5)])
def test_adjacent_partial_pages_become_one(make_rig, coalesces, num_pages):
    rig = make_rig(kv={"coalesces": coalesces, "page_size": 16})
    first = rig.submit(PREFIX, max_output=1)  # pages of 16, 16 and 8
    run(rig, first)
    prompt = PREFIX + b"x" * 24  # two pages and a half more
    again = rig.submit(prompt, max_output=1)
    run(rig, again)
    assert rig.kv.store.num_pages == num_pages
    last = rig.submit(prompt + b"y", max_output=1)
    run(rig, last)
    assert last.group.cached_tokens == 64


def test_the_only_page_of_a_tenant_becomes_a_longer_one(make_rig):
    rig = make_rig()
    run(rig, rig.submit(b"short", max_output=1))
    run(rig, rig.submit(b"short, then", max_output=1))
    assert len(list(rig.kv.store.tree)) == rig.kv.store.num_pages == 1
    last = rig.submit(b"short, then longer", max_output=1)
    run(rig, last)
    assert last.group.cached_tokens == 11


# ── forgetting ──


def wipes(rig):
    return len(moves(rig, Wipe))


def settle(rig):
    for _ in range(100):
        if rig.step().is_empty:
            return
        rig.check_integrity()


def test_cells_are_zeroed_after_a_drop_as_soon_as_nobody_computes(make_rig):
    rig = make_rig()
    run(rig, rig.submit(PREFIX, max_output=2))
    other = rig.submit(b"somebody else", max_output=20, client=ClientKey("other"))
    rig.step()
    assert rig.kv.drop("default") > 0
    rig.step()
    assert wipes(rig) == 0
    run(rig, other)
    settle(rig)
    assert (wipes(rig), rig.backend.num_wipes) == (1, 1)
    run(rig, rig.submit(PREFIX, max_output=9))
    assert rig.backend.num_wipes == 1


def test_idle_pages_of_others_make_way_for_zeroing_and_are_not_lost(make_rig):
    rig = make_rig(kv=DEVICE)
    for name in ("acme", "other"):
        run(rig, rig.submit(PREFIX, max_output=2, client=ClientKey(name)))
    assert rig.kv.cells.num_used
    rig.kv.drop("acme")
    settle(rig)
    assert rig.backend.num_wipes == 1
    kept = rig.submit(PREFIX, max_output=9, client=ClientKey("other"))
    run(rig, kept)
    assert kept.group.cached_tokens == 39


def test_what_runs_or_waits_when_its_tenants_pages_are_dropped_is_not_filed(make_rig):
    rig = make_rig(num_seats=1)
    low = rig.submit(PREFIX, max_output=12, priority=1)
    for _ in range(3):
        rig.step()
    high = rig.submit(b"h" * 40, max_output=12, priority=50)
    rig.step()
    assert low.group.is_parked
    rig.kv.drop("default")
    run(rig, low, high)
    assert rig.kv.store.num_pages == 0
    again = rig.submit(PREFIX, max_output=2)
    run(rig, again)
    assert again.group.cached_tokens == 0
    assert rig.kv.store.num_pages > 0


def test_a_page_that_is_dropped_while_it_leaves_the_cells_is_zeroed(make_rig):
    copies = []

    class Copying(FakeBackend):
        def export_page(self, seq_id, start, end):
            copies.append(FakeBackend.export_page(self, seq_id, start, end))
            return copies[-1]

    rig = make_rig(Copying())
    sequence = rig.submit(PREFIX, max_output=2)
    while not sequence.output.finished:
        rig.step()
    rig.kv.drop("default")
    rig.carry_out_moves()
    assert copies
    assert all(bytes(each) == bytes(len(each)) for each in copies)
    assert rig.kv.store.num_pages == 0


@given(
    orders=st.lists(
        st.tuples(st.sampled_from(["acme", "other"]), st.integers(1, 60), st.booleans()),
        max_size=12,
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_drops_at_any_moment_change_no_text_and_no_other_tenant(make_rig, orders):
    rig = make_rig(FakeBackend(num_cells=128), num_seats=3, context_tokens=100)
    sequences = []
    for tenant, length, drops in orders:
        client = ClientKey(tenant)
        sequences.append(rig.submit(PREFIX[:length], max_output=length % 7 + 1, client=client))
        rig.step()
        rig.check_integrity()
        if drops:
            rig.kv.drop(tenant)
            assert root_key("", tenant) not in {node.info.root for node in rig.kv.store.tree}
    run(rig, *sequences)
    settle(rig)
    if any(drops for *_, drops in orders):
        assert rig.backend.num_wipes >= 1


# ── parking ──


def test_when_cells_run_out_somebody_is_parked_and_everybody_completes(make_rig):
    rig = make_rig(FakeBackend(num_cells=128), num_seats=8, context_tokens=100)
    sequences = [rig.submit(bytes([n] * 24), max_output=40) for n in range(8)]
    run(rig, *sequences)
    assert rig.observer.num_parkings > 0
    assert len(rig.observer.outcomes) == 8
    assert set(rig.observer.outcomes) == {"length"}


def test_a_parked_sequence_finds_its_pages_again(make_rig):
    rig = make_rig(FakeBackend(num_cells=128), num_seats=8, context_tokens=100)
    sequences = [rig.submit(bytes([n] * 24), max_output=40) for n in range(8)]
    run(rig, *sequences)
    assert num_computed(rig) == 8 * (24 + 39)  # nothing twice
    assert moves(rig, Import)


def test_without_memory_for_pages_a_parked_sequence_is_computed_again(make_rig):
    rig = make_rig(FakeBackend(num_cells=100), num_seats=2, kv={"host_budget_bytes": 0})
    low = rig.submit(b"low" * 10, max_output=30, priority=1)
    for _ in range(10):
        rig.step()
    high = rig.submit(b"high" * 10, max_output=30, priority=50)
    run(rig, low, high)
    assert rig.observer.num_parkings == 1
    assert num_computed(rig) > 30 + 29 + 40 + 29


@pytest.mark.parametrize("scarce", ["seats", "cells"])
def test_a_higher_priority_takes_the_place_of_a_lower_one(make_rig, scarce):
    seats, cells = (1, 4096) if scarce == "seats" else (8, 64)
    rig = make_rig(FakeBackend(num_cells=cells), num_seats=seats, context_tokens=60)
    low = rig.submit(b"l" * 20, max_output=30, priority=10)
    for _ in range(5):
        rig.step()
    high = rig.submit(b"h" * 40, max_output=10, priority=50)
    rig.step()
    assert high.output.started
    assert low.group.is_parked
    run(rig, low, high)


def test_an_equal_priority_waits_for_its_turn(make_rig):
    rig = make_rig(num_seats=1)
    first = rig.submit(b"first", max_output=9)
    rig.step()
    second = rig.submit(b"second", max_output=9)
    rig.step()
    assert not second.output.started
    run(rig, first, second)
    assert rig.observer.num_parkings == 0


def test_the_victim_is_of_the_lowest_priority(make_rig):
    rig = make_rig(FakeBackend(num_cells=96), num_seats=3, context_tokens=80)
    low = rig.submit(b"l" * 24, max_output=50, priority=1)
    high = rig.submit(b"h" * 24, max_output=50, priority=10)
    run(rig, low, high)
    assert low.group.num_parkings > 0
    assert high.group.num_parkings == 0


def test_who_is_not_read_is_parked_first_and_waits_aside_until_it_is_read(make_rig):
    rig = make_rig(FakeBackend(num_cells=110), num_seats=4, context_tokens=80, max_unread_tokens=4)
    unread = rig.submit(b"u" * 24, max_output=30, priority=50)
    rig.step()
    unread.output.num_unread = 4
    others = [rig.submit(bytes([n] * 24), max_output=40, priority=1) for n in range(2)]
    run(rig, *others)
    assert unread.group.is_parked
    assert rig.scheduler.num_parked == 1
    assert not rig.scheduler.is_idle
    unread.output.num_unread = 0
    run(rig, unread)


def test_who_is_aside_ends_when_nobody_reads_for_long(make_rig):
    rig = make_rig(FakeBackend(num_cells=110), num_seats=4, context_tokens=80, max_unread_tokens=4)
    unread = rig.submit(b"u" * 24, max_output=30)
    rig.step()
    unread.output.num_unread = 4
    run(rig, *[rig.submit(bytes([n] * 24), max_output=40) for n in range(2)])
    assert rig.scheduler.next_wakeup() is not None
    rig.clock.advance(60)
    rig.step()
    assert [each.reason for each in unread.output.errors] == ["READER_STALLED"]
    assert rig.scheduler.is_idle


def test_a_parked_request_can_be_cancelled(make_rig):
    rig = make_rig(num_seats=1)
    low = rig.submit(b"low", max_output=30, priority=1)
    rig.step()
    high = rig.submit(b"high", max_output=3, priority=50)
    rig.step()
    rig.scheduler.cancel(low.group, rig.clock())
    run(rig, high)
    assert rig.gate.num_waiting == 0
    assert rig.scheduler.is_idle
    assert not any(node.num_pins for node in rig.kv.store.tree)


def test_choices_are_parked_and_resumed_together(make_rig):
    rig = make_rig(num_seats=3)
    low = rig.submit_group(PREFIX, max_output=30, priority=1, choice_count=3)
    for _ in range(6):
        rig.step()
    high = rig.submit(b"high", max_output=3, priority=50)
    run(rig, *low.sequences, high)
    assert low.num_parkings == 1
    assert low.output.num_completed == 1


# ── cells ──


def test_on_a_device_idle_pages_stay_in_the_cells(make_rig):
    rig = make_rig(kv=DEVICE)
    run(rig, rig.submit(PREFIX, max_output=8))
    again = rig.submit(PREFIX + b"more", max_output=2)
    run(rig, again)
    assert again.group.cached_tokens == 40
    assert not moves(rig, Import)
    assert not moves(rig, Export)


def test_watermarks_decide_when_idle_pages_leave_the_cells_and_nothing_thrashes(make_rig):
    kv = {**DEVICE, "num_shelf_ids": 100}
    rig = make_rig(FakeBackend(num_cells=400), num_seats=2, context_tokens=64, kv=kv)
    exported_at = []
    for number in range(60):
        run(rig, rig.submit(bytes([number] * 32), max_output=1))
        rig.step()
        rig.carry_out_moves()
        assert rig.kv.cells.num_used <= 0.85 * 400 + 32
        exported_at.append(len(moves(rig, Export)))
    grown = [later - earlier for earlier, later in pairwise(exported_at)]
    assert max(grown) <= 8  # from the upper mark to the lower one
    assert grown.count(0) >= len(grown) // 2  # then it is quiet for a while


def test_idle_pages_leave_the_cells_for_those_who_compute(make_rig):
    rig = make_rig(FakeBackend(num_cells=100), context_tokens=100, kv=DEVICE)
    run(rig, rig.submit(PREFIX, max_output=8))
    large = rig.submit(b"z" * 80, max_output=19)
    run(rig, large)
    assert rig.observer.num_parkings == 0
    again = rig.submit(PREFIX, max_output=1)
    run(rig, again)
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
    assert moves(rig, Relocate)
    assert rig.kv.cells.highest_used - rig.kv.cells.num_used < 256
    run(rig, first, second)


def test_memory_that_cannot_be_cut_is_kept_as_a_whole(make_rig):
    rig = make_rig(kv={"can_cut": False}, can_share=False)
    first = rig.submit(PREFIX, max_output=8)
    run(rig, first)
    goes_on = rig.submit(PREFIX + bytes(first.output.tokens) + b"?", max_output=2)
    turns_away = rig.submit(PREFIX + b"elsewhere", max_output=2)
    run(rig, goes_on, turns_away)
    assert (goes_on.group.cached_tokens, turns_away.group.cached_tokens) == (47, 0)
