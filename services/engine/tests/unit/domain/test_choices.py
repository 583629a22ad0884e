"""Requests with several choices."""

import pytest

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.errors import (
    ContextLengthExceededError,
    DeadlineExceededError,
    DecodeFailedError,
    InvalidFieldError,
    RequestCancelledError,
)
from caravan_engine.domain.events import FinishReason
from caravan_engine.domain.sampling.options import SamplingOptions

HOT = SamplingOptions(temperature=5.0, top_k=258)


def tokens_of(group):
    return [each.output.tokens for each in group.sequences]


def finish(rig):
    while not rig.step().is_empty:
        rig.check_integrity()


def test_the_prompt_is_computed_once_and_then_shared(make_rig):
    rig = make_rig(token_budget=8)
    group = rig.submit_group(b"0123456789abcdef", choice_count=3, max_output=5)
    finish(rig)
    shared, last, decoded = 15, 3, 3 * 4
    assert rig.num_computed == shared + last + decoded
    assert [len(each) for each in tokens_of(group)] == [5, 5, 5]
    assert group.output.num_completed == 1
    assert (group.num_prompt_tokens, group.num_output_tokens) == (16, 15)


def test_shared_cells_are_there_once(make_rig):
    rig = make_rig()
    rig.submit_group(b"x" * 20, choice_count=4, max_output=9)
    for _ in range(3):
        rig.step()
    assert rig.kv.cells.num_used == rig.backend.num_used_cells == 19 + 3 + 3 * 2


def test_each_choice_draws_for_itself_and_always_the_same(make_rig):
    def run(num_choices, **limits):
        rig = make_rig(**limits)
        group = rig.submit_group(b"go", choice_count=num_choices, sampling=HOT, seed=5)
        finish(rig)
        return tokens_of(group)

    four = run(4)
    assert len({tuple(each) for each in four}) == 4
    assert run(4, token_budget=4) == four
    assert run(2) == four[:2]
    assert run(1) == four[:1]


def test_a_prompt_of_one_token_has_nothing_to_share(make_rig):
    rig = make_rig()
    group = rig.submit_group(b"x", choice_count=3)
    finish(rig)
    assert tokens_of(group)[0] == tokens_of(group)[1] == tokens_of(group)[2]
    assert group.output.num_completed == 1


def test_more_choices_than_free_seats_wait_together(make_rig):
    rig = make_rig(num_seats=4)
    first = rig.submit_group(b"first", choice_count=2, max_output=3)
    second = rig.submit_group(b"second", choice_count=3, max_output=3)
    third = rig.submit(b"third", max_output=3)
    rig.step()
    started = [first.output.started, second.output.started, third.output.started]
    assert started == [True, False, False]
    assert rig.gate.num_waiting == 2
    finish(rig)
    assert second.output.num_completed == third.output.num_completed == 1


def test_cells_are_promised_for_the_prompt_once_and_every_output_where_nothing_can_be_parked(
    make_rig,
):
    rig = make_rig(FakeBackend(num_cells=100), kv={"host_budget_bytes": 0})
    first = rig.submit_group(b"x" * 41, choice_count=3, max_output=9)  # 40 + 3 * 10
    second = rig.submit(b"y" * 11, max_output=20)  # 31
    rig.step()
    assert [first.output.started, second.output.started] == [True, False]
    finish(rig)
    assert second.output.num_completed == 1
    assert rig.backend.num_used_cells == 0


def test_choices_divide_the_cells_that_their_prompt_leaves(make_rig):
    rig = make_rig(FakeBackend(num_cells=100), num_cells=100)
    group = rig.submit_group(b"x" * 41, choice_count=4, max_output=99)
    finish(rig)
    assert [len(each) for each in tokens_of(group)] == [14] * 4
    assert all(each.output.finished == [FinishReason.LENGTH] for each in group.sequences)
    with pytest.raises(ContextLengthExceededError):
        rig.submit_group(b"x" * 98, choice_count=4)


def test_more_choices_than_seats_are_refused(make_rig):
    with pytest.raises(InvalidFieldError) as refused:
        make_rig(num_seats=4).submit_group(b"x", choice_count=5)
    assert refused.value.field_violations[0].field == "choice_count"


def test_a_choice_that_ends_early_leaves_the_others_what_they_share(make_rig):
    rig = make_rig(num_seats=4)
    group = rig.submit_group(b"abcdef", choice_count=4, sampling=HOT, seed=2, max_output=400)
    while len(group.live) == len(group.sequences):
        rig.step()
    assert group.live
    newcomer = rig.submit(b"new", max_output=2)
    rig.step()
    rig.check_integrity()
    assert newcomer.output.started
    finish(rig)
    assert group.output.num_completed == 1
    assert [len(each.output.finished) for each in group.sequences] == [1] * 4
    assert len(rig.observer.outcomes) == 2


@pytest.mark.parametrize("moment", ["queue", "prefill", "decode"])
def test_a_caller_who_leaves_ends_all_choices_within_one_step(make_rig, moment):
    rig = make_rig(num_seats=3, token_budget=4)
    if moment == "queue":
        rig.submit(b"other", max_output=99)
    group = rig.submit_group(b"x" * (20 if moment == "prefill" else 2), choice_count=3)
    for _ in range(3):
        rig.step()
    rig.scheduler.cancel(group, rig.clock())
    rig.scheduler.cancel(group, rig.clock())
    rig.step()
    assert [type(each) for each in group.output.errors] == [RequestCancelledError]
    assert not group.live
    assert rig.gate.num_waiting == 0
    if moment != "queue":
        assert rig.backend.num_used_cells == 0
        assert rig.scheduler.is_idle


def test_a_deadline_ends_all_choices(make_rig):
    rig = make_rig()
    group = rig.submit_group(b"x", choice_count=3, max_output=99, deadline=rig.clock() + 5)
    rig.step()
    rig.clock.advance(5)
    rig.step()
    assert [type(each) for each in group.output.errors] == [DeadlineExceededError]
    assert rig.backend.num_used_cells == 0


def test_a_failed_step_is_replayed_and_the_choices_stay_the_same(make_rig):
    def run(fails):
        rig = make_rig(FakeBackend(fails=fails), num_seats=6, token_budget=8)
        groups = [
            rig.submit_group(b"a longer prompt", choice_count=3, sampling=HOT, seed=n)
            for n in range(2)
        ]
        finish(rig)
        assert all(group.output.num_completed == 1 for group in groups)
        return [tokens_of(group) for group in groups]

    undisturbed = run(lambda _step, _plan: None)
    for failing in range(16):
        assert run(lambda step, _plan, at=failing: -3 if step == at else None) == undisturbed


def test_a_request_that_makes_batches_fail_ends_once_for_all_its_choices(make_rig):
    def fails(_step, plan):
        return -3 if any(ord("!") in chunk.tokens for chunk in plan.chunks) else None

    rig = make_rig(FakeBackend(fails=fails))
    poison = rig.submit_group(b"boom!", choice_count=3)
    innocent = rig.submit(b"fine")
    finish(rig)
    assert [type(each) for each in poison.output.errors] == [DecodeFailedError]
    assert innocent.output.num_completed == 1
    assert rig.backend.num_used_cells == 0


def test_unusable_logits_of_all_choices_end_their_request_once(make_rig):
    rig = make_rig(FakeBackend(fill=lambda _history: float("nan")))
    group = rig.submit_group(b"bad", choice_count=3)
    finish(rig)
    assert [type(each) for each in group.output.errors] == [DecodeFailedError]
    assert rig.observer.outcomes == ["decode_failed"]
