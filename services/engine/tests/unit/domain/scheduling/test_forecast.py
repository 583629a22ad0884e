import random

import pytest

from caravan_engine.domain.scheduling.forecast import Work, forecast
from caravan_engine.domain.scheduling.rates import Rates

RATES = Rates(prefill_token_s=0.004, decode_step_s={1: 0.05, 4: 0.08})


def foresee(own, *ahead, num_seats=4):
    return forecast([own], ahead, rates=RATES, num_seats=num_seats)


def test_alone_it_takes_its_own_input_and_output():
    foreseen = foresee(Work(100, 20))
    assert foreseen.wait_s == 0
    assert foreseen.prefill_s == pytest.approx(0.4)
    assert foreseen.decode_s == pytest.approx(20 * 0.05)
    assert foreseen.total_s == pytest.approx(1.4)


def test_input_of_others_comes_first_also_when_there_are_seats():
    assert foresee(Work(10, 1), Work(500, 0), Work(300, 0)).wait_s == pytest.approx(3.2)


def test_companions_make_its_steps_longer_for_as_long_as_they_last():
    decode_s = foresee(Work(10, 20), Work(0, 20), Work(0, 99), Work(0, 20)).decode_s
    assert decode_s == pytest.approx(20 * 0.08)
    half = foresee(Work(10, 20), Work(0, 10), Work(0, 10)).decode_s  # two on average
    assert half == pytest.approx(20 * 0.06)


def test_without_a_seat_it_waits_for_the_first_to_end():
    running = [Work(0, tokens) for tokens in (50, 10, 70, 90)]
    assert foresee(Work(10, 1), *running).wait_s == pytest.approx(10 * 0.08)


def test_behind_a_queue_it_waits_for_as_many_ends_as_it_takes():
    running = [Work(0, 10)] * 4
    waiting = [Work(0, 40)] * 8
    assert foresee(Work(10, 1), *running, *waiting).wait_s == pytest.approx(
        (4 * 10 + 5 * 40) / 4 * 0.08
    )


def test_choices_wait_for_their_seats_together():
    own = [Work(10, 5), Work(0, 5), Work(0, 5)]
    ahead = [Work(0, tokens) for tokens in (10, 20)]
    foreseen = forecast(own, ahead, rates=RATES, num_seats=4)
    assert foreseen.wait_s == pytest.approx(10 * 0.08)
    assert foreseen.prefill_s == pytest.approx(0.04)


def test_nothing_to_do_takes_no_time():
    assert forecast([], [], rates=Rates(), num_seats=4).total_s == 0


def steps_until_done(own, ahead, num_seats):
    """Runs it: who comes first is seated first, each step is a token for each seat."""
    waiting, seated, num_steps = [*ahead, own], [], 0
    while True:
        while waiting and len(seated) < num_seats:
            seated.append([waiting.pop(0), 0])
        num_steps += 1
        for entry in seated:
            entry[1] += 1
            if entry[0] is own and entry[1] == own.output_tokens:
                return num_steps
        seated = [entry for entry in seated if entry[1] < entry[0].output_tokens]


def test_it_is_never_later_than_what_happens():
    chance = random.Random(5)
    rates = Rates(prefill_token_s=0.0, decode_step_s={1: 1.0, 4: 1.0})
    errors = []
    for _ in range(300):
        ahead = [Work(0, chance.randint(1, 40)) for _ in range(chance.randint(0, 20))]
        own = Work(0, chance.randint(1, 40))
        foreseen = forecast([own], ahead, rates=rates, num_seats=4).total_s
        happened = steps_until_done(own, ahead, num_seats=4)
        assert foreseen <= happened + 1e-9
        errors.append(foreseen / happened)
    assert sum(errors) / len(errors) > 0.7
