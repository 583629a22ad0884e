"""Who is seated beside whom, by what they are expected to generate."""

import pytest

from caravan_engine.backends.fake import FakeBackend, scripted
from caravan_engine.domain.events import FinishReason


@pytest.fixture
def rig(make_rig):
    return make_rig(FakeBackend(num_cells=128), num_seats=8, token_budget=128)


def seated(rig, *sequences):
    return [each.seat is not None for each in sequences]


def used_up(rig, *, max_output=80, num_tokens=None):
    """Teaches that requests use as much of their bound as one that generates `num_tokens`."""
    sequence = rig.submit(b"lesson", max_output=max_output)
    while sequence.num_output_tokens < (num_tokens or max_output):
        rig.step()
    rig.scheduler.cancel(sequence.group, rig.clock())
    rig.outputs.learn(sequence.group, FinishReason.LENGTH)


def test_whoever_certainly_had_to_be_parked_is_not_seated(rig):
    sequences = [
        rig.submit(bytes([97 + number]) * 24, max_output=8 + 32, ignore_eos=True)
        for number in range(4)
    ]
    rig.step()
    assert seated(rig, *sequences) == [True, True, False, False]
    rig.complete(*sequences)
    assert rig.observer.num_parkings == 0


def test_a_bound_alone_keeps_nobody_waiting(rig):
    sequences = [rig.submit(bytes([97 + number]) * 24, max_output=90) for number in range(4)]
    rig.step()
    assert seated(rig, *sequences) == [True] * 4
    rig.complete(*sequences)
    assert rig.observer.num_parkings > 0


@pytest.mark.parametrize(("num_tokens", "num_seated"), [(8, 4), (40, 2), (80, 1)])
def test_what_others_used_of_their_bound_is_expected_of_the_next(rig, num_tokens, num_seated):
    used_up(rig, num_tokens=num_tokens)
    sequences = [rig.submit(bytes([97 + number]) * 24, max_output=80) for number in range(4)]
    rig.step()
    assert sum(seated(rig, *sequences)) == num_seated


def test_one_that_outdid_what_was_expected_is_expected_to_end_soon(rig):
    used_up(rig, num_tokens=16)
    first = rig.submit(b"a" * 24, max_output=80)
    while first.num_output_tokens < 40:
        rig.step()
    second = rig.submit(b"b" * 24, max_output=80)
    rig.step()
    assert seated(rig, first, second) == [True, True]


def test_cells_of_those_who_end_first_serve_those_who_stay(rig):
    ending = rig.submit(b"e" * 40, max_output=20, ignore_eos=True)
    rig.step()
    # 24 + 70 fit beside the other only because it will be gone when they are needed
    staying = rig.submit(b"s" * 24, max_output=70, ignore_eos=True)
    rig.step()
    assert seated(rig, ending, staying) == [True, True]
    rig.complete(ending, staying)
    assert rig.observer.num_parkings == 0


def test_the_same_beside_one_that_stays_as_long_waits(rig):
    first = rig.submit(b"e" * 40, max_output=70, ignore_eos=True)
    rig.step()
    second = rig.submit(b"s" * 24, max_output=70, ignore_eos=True)
    rig.step()
    assert seated(rig, first, second) == [True, False]
    rig.complete(first, second)


@pytest.mark.parametrize(("budget", "is_computed"), [(128, True), (16, False)])
def test_what_two_have_in_common_is_not_freed_by_the_first_that_ends(make_rig, budget, is_computed):
    """Also while the second still waits for the first to compute it."""
    rig = make_rig(FakeBackend(num_cells=128), num_seats=8, token_budget=budget)
    common = bytes(range(60))
    first = rig.submit(common + b"1", max_output=8, ignore_eos=True)
    if is_computed:
        rig.step()
    second = rig.submit(common + b"2", max_output=66, ignore_eos=True)
    third = rig.submit(b"t" * 20, max_output=30, ignore_eos=True)
    rig.step()
    assert seated(rig, first, second, third) == [True, True, False]
    rig.complete(first, second, third)
    assert rig.observer.num_parkings == 0


def test_nobody_waits_for_what_lower_priorities_will_need(rig):
    low = rig.submit(b"l" * 60, max_output=60, ignore_eos=True, priority=1)
    rig.step()
    high = rig.submit(b"h" * 24, max_output=60, ignore_eos=True, priority=10)
    rig.step()
    assert seated(rig, low, high) == [True, True]  # and nobody is parked before he must be
    rig.complete(low, high)
    assert (low.group.num_parkings, high.group.num_parkings) == (1, 0)


def test_of_lower_priorities_no_more_are_parked_than_must_be_now(rig):
    low = [
        rig.submit(bytes([97 + number]) * 40, max_output=8, ignore_eos=True, priority=1)
        for number in range(2)
    ]
    rig.step()
    high = rig.submit(b"h" * 40, max_output=80, ignore_eos=True, priority=10)
    rig.step()
    assert sorted(seated(rig, *low)) == [False, True]
    assert seated(rig, high) == [True]


def test_nobody_waits_for_what_one_whose_reader_left_off_will_need(make_rig):
    rig = make_rig(FakeBackend(num_cells=128), num_seats=8, max_unread_tokens=4)
    unread = rig.submit(b"u" * 30, max_output=80, ignore_eos=True)
    rig.step()
    unread.output.num_unread = 4
    read = rig.submit(b"r" * 24, max_output=80, ignore_eos=True)
    rig.step()
    assert seated(rig, unread, read) == [True, True]
    rig.complete(read)
    assert (unread.group.num_parkings, read.group.num_parkings) == (1, 0)


def test_without_a_place_for_parked_pages_the_greatest_length_is_kept_free(make_rig):
    rig = make_rig(
        FakeBackend(num_cells=128, next_token=scripted({b"a": b"x", b"b": b"x"})),
        num_seats=8,
        kv={"host_budget_bytes": 0},
    )
    sequences = [rig.submit(letter, max_output=80) for letter in (b"a", b"b")]
    rig.step()
    assert seated(rig, *sequences) == [True, False]
    rig.run()
    assert [each.output.tokens for each in sequences] == [list(b"x")] * 2
