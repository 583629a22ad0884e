from itertools import count

import pytest

from caravan_engine.domain.errors import DeadlineUnreachableError
from caravan_engine.domain.model_facts import Pooling
from caravan_engine.domain.pooling import Pooler
from caravan_engine.domain.request import ClientKey, EmbeddingRequest, GenerationRequest
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.scheduling.deadline_guard import DeadlineGuard
from caravan_engine.domain.scheduling.fairness import ClientWeights
from caravan_engine.domain.scheduling.rates import StepRates
from caravan_engine.domain.sequence import Sequence, SequenceGroup
from caravan_engine.domain.step import Chunk, StepPlan

TOKEN_S, STEP_S = 0.01, 0.1
SAMPLER = object()
NUMBERS = count(1)
DECODE = StepPlan(chunks=(Chunk(0, 9, (1,), SAMPLER),))
PREFILL = StepPlan(chunks=(Chunk(0, 0, (1,) * 100, None),))


def measured(*, num_steps=5):
    rates = StepRates()
    for _ in range(num_steps):
        rates.observe(DECODE, STEP_S)
        rates.observe(PREFILL, 100 * TOKEN_S)
    return rates


def make_guard(rates=None, *, num_seats=4, **fields):
    guard = DeadlineGuard(rates or measured(), num_seats=num_seats, **fields)
    guard.stepped(DECODE, (), 0.0)
    return guard


def group(
    num_input=10,
    max_output=10,
    *,
    client="alice",
    priority=10,
    deadline=None,
    ignore_eos=True,
    prompt=None,
    **more,
):
    request = GenerationRequest(
        request_id="r",
        prompt=prompt or (next(NUMBERS),) * num_input,
        sampling=SamplingOptions(temperature=0),
        seed=0,
        max_output_tokens=max_output,
        ignore_eos=ignore_eos,
        priority=priority,
        deadline=deadline,
        client=ClientKey("acme", client),
        **more,
    )
    sequences = [
        Sequence(request, max_tokens=num_input + max_output, work=SAMPLER, output=None)
        for _ in range(request.choice_count)
    ]
    return SequenceGroup(request, sequences, output=None, arrived=0.0)


def seconds(guard, **fields):
    return guard.forecast(group(**fields)).total_s


def run_to_end(guard, ended, num_output, outcome="end_of_text"):
    guard.entered(ended)
    guard.admitted(ended, 0.0)
    for sequence in ended.sequences:
        sequence.tokens += [7] * num_output
    guard.ended(ended, outcome, 0.0)


# ── refusal ──


def test_a_request_that_fits_passes():
    make_guard().check(group(100, 50, deadline=6.0), 0.0)


def test_the_refusal_carries_estimate_remaining_and_delay():
    with pytest.raises(DeadlineUnreachableError) as caught:
        make_guard().check(group(100, 50, deadline=4.0), 0.0)
    assert caught.value.metadata == {"estimate_ms": "6000", "remaining_ms": "4000"}
    assert caught.value.retry_after_s == pytest.approx(2.0)


def test_a_forecast_may_be_wrong_by_a_quarter():
    make_guard().check(group(100, 50, deadline=4.9), 0.0)


@pytest.mark.parametrize("deadline", [None, 0.0, -1.0])
def test_without_a_deadline_or_after_it_nothing_is_foreseen(deadline):
    make_guard().check(group(100, 50, deadline=deadline), 0.0)


def test_nothing_is_refused_before_enough_was_measured():
    for num_steps in range(3):
        guard = make_guard(measured(num_steps=num_steps))
        guard.check(group(1000, 1000, deadline=0.1), 0.0)


def test_rates_that_were_not_confirmed_for_a_minute_refuse_nobody():
    guard = make_guard()
    hopeless = group(1000, 1000, deadline=100.0)
    with pytest.raises(DeadlineUnreachableError):
        guard.check(hopeless, 59.0)
    guard.check(hopeless, 61.0)
    guard.stepped(DECODE, (), 61.0)
    with pytest.raises(DeadlineUnreachableError):
        guard.check(hopeless, 62.0)


def test_an_inactive_guard_refuses_nobody():
    make_guard(is_active=False).check(group(1000, 1000, deadline=0.1), 0.0)


# ── its own length ──


def test_before_anything_ended_hardly_any_output_is_expected():
    guard = make_guard()
    assert seconds(guard, max_output=1000, ignore_eos=False) == pytest.approx(0.1 + STEP_S)


def test_expected_output_follows_what_others_used_of_their_bound():
    guard = make_guard()
    for _ in range(5):
        run_to_end(guard, group(10, 100, ignore_eos=False), 25)
    assert seconds(guard, max_output=1000, ignore_eos=False) == pytest.approx(0.1 + 250 * STEP_S)


def test_who_ignores_the_end_uses_all_of_it():
    guard = make_guard()
    for _ in range(5):
        run_to_end(guard, group(10, 100, ignore_eos=False), 25)
    assert seconds(guard, max_output=100) == pytest.approx(0.1 + 100 * STEP_S)


@pytest.mark.parametrize(("ignore_eos", "outcome"), [(True, "length"), (False, "cancelled")])
def test_only_texts_that_ended_by_themselves_teach_something(ignore_eos, outcome):
    guard = make_guard()
    for _ in range(9):
        run_to_end(guard, group(10, 100, ignore_eos=ignore_eos), 100, outcome)
    assert seconds(guard, max_output=1000, ignore_eos=False) == pytest.approx(0.1 + STEP_S)


def test_an_input_to_embed_has_no_output():
    guard = make_guard()
    request = EmbeddingRequest(request_id="e", prompt=(1,) * 50, pooling=Pooling.MEAN)
    sequence = Sequence(request, max_tokens=50, work=Pooler(Pooling.MEAN), output=None)
    embedding = SequenceGroup(request, [sequence], output=None, arrived=0.0)
    assert guard.forecast(embedding).total_s == pytest.approx(0.5)


def test_choices_compute_what_they_share_once():
    guard = make_guard()
    shared = seconds(guard, num_input=100, choice_count=3)
    assert shared == pytest.approx(1.02 + 10 * STEP_S)


def test_input_that_was_seen_needs_no_computing():
    guard = make_guard()
    prefix = tuple(range(1000, 1128))
    guard.entered(group(128, prompt=prefix))
    assert guard.forecast(group(228, prompt=prefix + (7,) * 100)).prefill_s == pytest.approx(1.0)


def test_the_next_turn_of_a_conversation_computes_what_is_new():
    guard = make_guard()
    begun = group(64)
    run_to_end(guard, begun, 64)
    turn = (*begun.sequences[0].tokens, *(9,) * 30)
    assert guard.forecast(group(len(turn), prompt=turn)).prefill_s == pytest.approx(0.3)


def test_what_earlier_requests_found_cached_is_expected_of_later_ones():
    guard = make_guard()
    tenth = StepPlan(chunks=(Chunk(0, 0, (1,) * 10, None),))
    for _ in range(20):
        guard.entered(served := group(100))
        guard.admitted(served, 0.0)
        guard.stepped(tenth, (), 0.0)
    assert guard.forecast(group(500)).prefill_s == pytest.approx(0.5, rel=0.1)


# ── who is ahead ──


def waiting(guard, *groups):
    for each in groups:
        guard.entered(each)


def wait_s(guard, **fields):
    return guard.forecast(group(**fields)).wait_s


def test_higher_priorities_are_ahead_and_lower_ones_are_not():
    guard = make_guard()
    waiting(guard, group(100, priority=50), group(1000, priority=1))
    assert wait_s(guard, priority=10) == pytest.approx(100 * TOKEN_S)
    assert wait_s(guard, priority=50, client="bob") == 0
    assert wait_s(guard, priority=100) == 0


def test_a_client_comes_after_its_own_requests():
    guard = make_guard()
    waiting(guard, group(100), group(200))
    assert wait_s(guard, client="alice") == pytest.approx(300 * TOKEN_S)


def test_the_flood_of_another_client_counts_only_for_what_fairness_lets_pass():
    guard = make_guard(num_seats=100)
    waiting(guard, *(group(100, client="greedy") for _ in range(50)))
    assert wait_s(guard, client="alice") == 0
    waiting(guard, group(90, client="alice"), group(90, client="alice"))
    assert wait_s(guard, client="alice") == pytest.approx((2 * 90 + 2 * 100) * TOKEN_S)


def test_with_more_weight_fewer_of_others_pass():
    guard = make_guard(num_seats=100, weights=ClientWeights({"acme/alice": 10.0}))
    waiting(guard, *(group(100, client="greedy") for _ in range(50)))
    waiting(guard, *(group(100, client="alice") for _ in range(5)))
    assert wait_s(guard, client="alice") == pytest.approx((5 + 1) * 100 * TOKEN_S)


def test_those_who_run_are_ahead_with_what_is_left_of_them():
    guard = make_guard(num_seats=1)
    running = group(100, 50).sequences[0]
    running.num_computed = 60
    guard.stepped(DECODE, [running], 0.0)
    assert wait_s(guard) == pytest.approx(40 * TOKEN_S + 50 * STEP_S)
    running.num_computed = 119
    running.tokens += [7] * 20
    guard.stepped(DECODE, [running], 0.0)
    assert wait_s(guard) == pytest.approx(30 * STEP_S)
    guard.rested(())
    assert wait_s(guard) == 0


def test_who_was_admitted_or_left_is_not_counted_twice():
    guard = make_guard()
    admitted, cancelled = group(100), group(100)
    waiting(guard, admitted, cancelled)
    guard.admitted(admitted, 0.0)
    guard.ended(cancelled, "cancelled", 0.0)
    assert wait_s(guard) == 0
    guard.ended(admitted, "length", 0.0)
    assert wait_s(guard) == 0
