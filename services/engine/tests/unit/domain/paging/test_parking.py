"""Who gives up cells or a seat when they run out, and how it goes on."""

import pytest

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.paging.moves import Import

PREFIX = bytes(range(40))


def test_when_cells_run_out_somebody_is_parked_and_everybody_completes(make_rig):
    rig = make_rig(FakeBackend(num_cells=128), num_seats=8, context_tokens=100)
    sequences = [rig.submit(bytes([n] * 24), max_output=40) for n in range(8)]
    rig.complete(*sequences)
    assert rig.observer.num_parkings > 0
    assert len(rig.observer.outcomes) == 8
    assert set(rig.observer.outcomes) == {"length"}


def test_a_parked_sequence_finds_its_pages_again(make_rig):
    rig = make_rig(FakeBackend(num_cells=128), num_seats=8, context_tokens=100)
    sequences = [rig.submit(bytes([n] * 24), max_output=40) for n in range(8)]
    rig.complete(*sequences)
    assert rig.num_computed == 8 * (24 + 39)  # nothing twice
    assert rig.moves(Import)


def test_without_memory_for_pages_a_parked_sequence_is_computed_again(make_rig):
    rig = make_rig(FakeBackend(num_cells=100), num_seats=2, kv={"host_budget_bytes": 0})
    low = rig.submit(b"low" * 10, max_output=30, priority=1)
    for _ in range(10):
        rig.step()
    high = rig.submit(b"high" * 10, max_output=30, priority=50)
    rig.complete(low, high)
    assert rig.observer.num_parkings == 1
    assert rig.num_computed > 30 + 29 + 40 + 29


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
    rig.complete(low, high)


def test_an_equal_priority_waits_for_its_turn(make_rig):
    rig = make_rig(num_seats=1)
    first = rig.submit(b"first", max_output=9)
    rig.step()
    second = rig.submit(b"second", max_output=9)
    rig.step()
    assert not second.output.started
    rig.complete(first, second)
    assert rig.observer.num_parkings == 0


def test_the_victim_is_of_the_lowest_priority(make_rig):
    rig = make_rig(FakeBackend(num_cells=96), num_seats=3, context_tokens=80)
    low = rig.submit(b"l" * 24, max_output=50, priority=1)
    high = rig.submit(b"h" * 24, max_output=50, priority=10)
    rig.complete(low, high)
    assert low.group.num_parkings > 0
    assert high.group.num_parkings == 0


def test_who_is_not_read_is_parked_first_and_waits_aside_until_it_is_read(make_rig):
    rig = make_rig(FakeBackend(num_cells=110), num_seats=4, context_tokens=80, max_unread_tokens=4)
    unread = rig.submit(b"u" * 24, max_output=30, priority=50)
    rig.step()
    unread.output.num_unread = 4
    others = [rig.submit(bytes([n] * 24), max_output=40, priority=1) for n in range(2)]
    rig.complete(*others)
    assert unread.group.is_parked
    assert rig.scheduler.num_parked == 1
    assert not rig.scheduler.is_idle
    unread.output.num_unread = 0
    rig.complete(unread)


def test_who_is_aside_ends_when_nobody_reads_for_long(make_rig):
    rig = make_rig(FakeBackend(num_cells=110), num_seats=4, context_tokens=80, max_unread_tokens=4)
    unread = rig.submit(b"u" * 24, max_output=30)
    rig.step()
    unread.output.num_unread = 4
    rig.complete(*[rig.submit(bytes([n] * 24), max_output=40) for n in range(2)])
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
    rig.complete(high)
    assert rig.gate.num_waiting == 0
    assert rig.scheduler.is_idle
    assert not any(node.num_pins for node in rig.kv.store.tree)


def test_choices_are_parked_and_resumed_together(make_rig):
    rig = make_rig(num_seats=3)
    low = rig.submit_group(PREFIX, max_output=30, priority=1, choice_count=3)
    for _ in range(6):
        rig.step()
    high = rig.submit(b"high", max_output=3, priority=50)
    rig.complete(*low.sequences, high)
    assert low.num_parkings == 1
    assert low.output.num_completed == 1
