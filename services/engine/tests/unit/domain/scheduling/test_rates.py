import pytest

from caravan_engine.domain.model_facts import Pooling
from caravan_engine.domain.pooling import Pooler
from caravan_engine.domain.scheduling.rates import Rates, StepRates
from caravan_engine.domain.step import Chunk, StepPlan

SAMPLER = object()  # rates only look whether there is one


def step(num_decoding=0, num_prefill=0):
    chunks = [Chunk(seat, 9, (1,), SAMPLER) for seat in range(num_decoding)]
    if num_prefill:
        chunks.append(Chunk(num_decoding, 0, (1,) * num_prefill, None))
    return StepPlan(chunks=tuple(chunks))


def measured(*steps):
    rates = StepRates()
    for plan, seconds in steps:
        rates.observe(plan, seconds)
    return rates.current


def test_nothing_is_known_before_it_was_measured():
    rates = StepRates().current
    assert rates == Rates(None, {}, can_foresee=False)
    assert rates.decode_s(4) is None
    assert rates.prefill_tokens_within(1.0, 4) == 0


def test_prompts_alone_give_the_time_of_a_token():
    assert measured((step(num_prefill=100), 0.4)).prefill_token_s == pytest.approx(0.004)


def test_beside_those_who_decode_only_the_rest_of_the_step_counts():
    rates = measured((step(8), 0.08), (step(8, 100), 0.48))
    assert rates.prefill_token_s == pytest.approx(0.004)
    assert rates.decode_s(8) == 0.08


def test_until_decoding_was_measured_a_mixed_step_is_divided_by_tokens():
    assert measured((step(10, 90), 1.0)).prefill_token_s == pytest.approx(0.01)


def test_short_prompts_and_vectors_are_no_measure():
    pooled = StepPlan(chunks=(Chunk(0, 0, (1,) * 50, None, pooler=Pooler(Pooling.MEAN)),))
    rates = measured((step(num_prefill=15), 1.0), (step(2, 3), 1.0), (pooled, 1.0))
    assert rates.prefill_token_s is None
    assert rates.decode_s(2) is None


def test_between_measured_numbers_of_sequences_it_is_interpolated():
    rates = measured((step(2), 0.05), (step(8), 0.11))
    assert rates.decode_s(5) == pytest.approx(0.08)
    assert rates.decode_s(2.5) == pytest.approx(0.055)


def test_beyond_them_it_errs_towards_fast():
    rates = measured((step(2), 0.05), (step(8), 0.11))
    assert rates.decode_s(16) == 0.11
    assert rates.decode_s(1) == pytest.approx(0.025)


@pytest.mark.parametrize("position", [0, 2, 20])
def test_a_step_that_was_held_up_changes_little(position):
    seconds = [0.1] * 30
    seconds[position] = 30.0
    rates = measured(*((step(4), each) for each in seconds))
    assert 0.1 <= rates.decode_s(4) < 0.125


@pytest.mark.parametrize("change", [0.1, 10.0])
def test_a_lasting_change_is_followed(change):
    rates = measured(*((step(4), 0.1) for _ in range(50)), *((step(4), 0.1 * change),) * 60)
    assert rates.decode_s(4) == pytest.approx(0.1 * change, rel=0.05)


def test_it_becomes_faster_sooner_than_slower():
    steady = [(step(4), 0.1)] * 10
    faster = measured(*steady, *[(step(4), 0.05)] * 5).decode_s(4)
    slower = measured(*steady, *[(step(4), 0.2)] * 5).decode_s(4)
    assert 0.1 - faster > 0.8 * 0.05
    assert slower - 0.1 < 0.5 * 0.1


def test_small_chunks_move_the_rate_of_prompts_less():
    steady = [(step(num_prefill=512), 2.0)] * 5
    small = measured(*steady, (step(num_prefill=16), 0.2)).prefill_token_s
    large = measured(*steady, (step(num_prefill=160), 2.0)).prefill_token_s
    assert 2.0 / 512 < small < large


def test_forecasts_need_three_steps_of_each_kind():
    decodes, prefills = [(step(2), 0.1)] * 3, [(step(num_prefill=50), 0.2)] * 3
    assert not measured(*decodes[:2], *prefills).can_foresee
    assert not measured(*decodes, *prefills[:2]).can_foresee
    assert measured(*decodes, *prefills).can_foresee


def test_a_chunk_fills_what_decoding_leaves_of_a_step():
    rates = Rates(0.004, {8: 0.1})
    assert rates.prefill_tokens_within(0.5, 8) == 100
    assert rates.prefill_tokens_within(0.1, 8) == 0
    assert rates.prefill_tokens_within(0.05, 8) == 0


def test_before_a_prompt_was_measured_its_tokens_cost_as_much_as_decoded_ones():
    assert Rates(None, {8: 0.08}).prefill_tokens_within(0.485, 8) == 40
