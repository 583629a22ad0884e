"""How large the prompts' part of a step is beside sequences that decode."""

import pytest

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.events import FinishReason
from caravan_engine.domain.scheduling.batch_policy import (
    MIN_CHUNK,
    DecodeFirst,
    StepTimeBound,
    TakingTurns,
)
from caravan_engine.domain.scheduling.rates import StepRates

DECODE_S, TOKEN_S = {1: 0.05, 8: 0.1}, 0.004
BUDGET = 512


class Machine:
    """A scheduler on a model of a known speed; what steps take is measured as in a worker."""

    def __init__(
        self, make_rig, step_time_s, *, token_s=TOKEN_S, growth=0.0, whole_tokens=0, tile=None
    ):
        self.rates = StepRates()
        self.token_s, self.growth = token_s, growth
        bound = StepTimeBound(self.rates, step_time_s, whole_tokens=whole_tokens, tile=tile)
        policy = DecodeFirst(bound if step_time_s else None, tile=tile)
        self.rig = make_rig(
            FakeBackend(num_cells=8192),
            num_seats=16,
            token_budget=BUDGET,
            batch_policy=TakingTurns(policy),
        )
        self.steps = []  # sizes of the prompts' parts, and seconds

    def step(self):
        plan = self.rig.step()
        num_decoding = sum(chunk.is_decode for chunk in plan.chunks)
        num_prefill = plan.num_tokens - num_decoding
        decode_s = 0.04 + 0.0075 * num_decoding if num_decoding else 0.0
        seconds = decode_s + self.token_s * num_prefill
        self.token_s += self.growth * num_prefill
        self.rates.observe(plan, seconds)
        self.rig.clock.advance(seconds)
        self.steps.append((num_prefill, seconds))
        return plan

    def chats(self, count, *, max_output=160):
        chats = [self.rig.submit(b"%20d" % n, max_output=max_output) for n in range(count)]
        for _ in range(20):
            self.step()
        self.steps.clear()
        return chats


@pytest.mark.parametrize("step_time_s", [0.3, 0.5, 1.0])
def test_a_long_prompt_does_not_hold_up_those_who_decode(make_rig, step_time_s):
    machine = Machine(make_rig, step_time_s)
    machine.chats(8)
    prompt = machine.rig.submit(b"x" * 4096, max_output=2)
    while not prompt.output.tokens:
        machine.step()
    assert max(seconds for _, seconds in machine.steps) < step_time_s * 1.1
    assert machine.steps[5][0] > 0.9 * (step_time_s - 0.1) / TOKEN_S


def test_the_bound_costs_no_time_in_all(make_rig):
    def seconds_in_all(step_time_s):
        machine = Machine(make_rig, step_time_s)
        chats = machine.chats(8)
        prompt = machine.rig.submit(b"x" * 4096, max_output=32)
        while not machine.rig.scheduler.is_idle:
            machine.step()
        assert all(each.output.finished for each in (*chats, prompt))
        return sum(seconds for _, seconds in machine.steps)

    assert seconds_in_all(0.5) < 1.02 * seconds_in_all(0)


def test_alone_a_prompt_takes_the_whole_budget(make_rig):
    machine = Machine(make_rig, 0.1)
    machine.rig.submit(b"x" * 2000, max_output=1)
    sizes = [machine.step().num_tokens for _ in range(4)]
    assert sizes == [512, 512, 512, 464]


def test_without_a_bound_it_does_so_beside_others_too(make_rig):
    machine = Machine(make_rig, 0)
    machine.chats(8)
    machine.rig.submit(b"x" * 2000, max_output=1)
    assert machine.step().num_tokens == 512


def test_prompts_advance_however_slow_the_machine_is(make_rig):
    machine = Machine(make_rig, 0.001, token_s=1.0)
    machine.chats(4)
    prompt = machine.rig.submit(b"x" * 100, max_output=1)
    sizes = [machine.step() and machine.steps[-1][0] for _ in range(4)]
    assert sizes == [MIN_CHUNK, MIN_CHUNK, MIN_CHUNK, 4]
    assert prompt.output.finished == [FinishReason.LENGTH]


def test_the_first_chunk_beside_others_is_small_while_nothing_is_measured(make_rig):
    machine = Machine(make_rig, 0.5)
    machine.rig.submit(b"x", max_output=99)
    machine.rig.step()
    machine.rig.submit(b"y" * 1000, max_output=1)
    assert machine.rig.step().num_tokens == 1 + MIN_CHUNK


def test_several_prompts_share_what_fits_the_oldest_first(make_rig):
    machine = Machine(make_rig, 0.5)
    machine.chats(8)
    first = machine.rig.submit(b"x" * 60, max_output=1)
    machine.rig.submit(b"y" * 400, max_output=1)
    sizes = prompt_sizes(machine.step())
    assert sizes[0] == len(first.request.prompt)
    assert sum(sizes) == pytest.approx((0.5 - 0.1) / TOKEN_S, rel=0.1)


def prompt_sizes(plan):
    return [len(chunk.tokens) for chunk in plan.chunks if not chunk.is_decode]


def test_prompts_that_fit_into_a_step_are_not_cut(make_rig):
    machine = Machine(make_rig, 0.3, whole_tokens=BUDGET)
    machine.chats(8)
    for name in (b"x", b"y", b"z"):
        machine.rig.submit(name * 240, max_output=1)
    assert prompt_sizes(machine.step()) == [240, 240, BUDGET - 8 - 480]


def test_a_long_prompt_leaves_the_rest_of_the_step_to_short_ones(make_rig):
    machine = Machine(make_rig, 0.3, whole_tokens=BUDGET)
    machine.chats(8)
    machine.rig.submit(b"x" * 2000, max_output=1)
    machine.rig.submit(b"y" * 100, max_output=1)
    machine.rig.submit(b"z" * 1000, max_output=1)
    long, short = prompt_sizes(machine.step())
    assert long == pytest.approx((0.3 - 0.1) / TOKEN_S, rel=0.1)
    assert short == 100


def test_steps_stay_within_the_bound_while_a_prompt_gets_dearer(make_rig):
    machine = Machine(make_rig, 0.5, growth=TOKEN_S / 4096)
    machine.chats(8)
    prompt = machine.rig.submit(b"x" * 4096, max_output=2)
    while not prompt.output.tokens:
        machine.step()
    assert machine.token_s > 1.9 * TOKEN_S
    assert max(seconds for _, seconds in machine.steps) < 0.5 * 1.1


def test_large_steps_are_of_prompts_or_of_decoding_by_turns(make_rig):
    machine = Machine(make_rig, 0, tile=64)
    machine.chats(8)
    machine.rig.submit(b"x" * 1200, max_output=1)
    shapes = [len(machine.step().chunks) for _ in range(6)]
    assert [machine.steps[at][0] for at in range(6)] == [512, 0, 512, 0, 176, 0]
    assert shapes == [1, 8, 1, 8, 1, 8]


def test_small_steps_are_of_both(make_rig):
    machine = Machine(make_rig, 0, tile=64)
    machine.chats(8)
    machine.rig.submit(b"x" * 55, max_output=1)
    plan = machine.step()
    assert (len(plan.chunks), plan.num_tokens) == (9, 63)


def test_steps_of_one_kind_stay_within_the_bound_too(make_rig):
    machine = Machine(make_rig, 0.5, tile=64)
    machine.chats(8)
    prompt = machine.rig.submit(b"x" * 4096, max_output=2)
    gaps, waited_s = [], 0.0
    while not prompt.output.tokens:
        has_decoded = any(chunk.is_decode for chunk in machine.step().chunks)
        waited_s += machine.steps[-1][1]
        if has_decoded:
            gaps.append(waited_s)
            waited_s = 0.0
    assert max(gaps) < 0.5 * 1.1
    sizes = {size for size, _ in machine.steps if size}
    assert sizes - {64} == set()


def kinds(machine, count):
    """What the next steps are of: prompts or decoding."""
    for _ in range(count):
        machine.step()
    return "".join("P" if size else "d" for size, _ in machine.steps[-count:])


def test_those_who_decode_keep_two_fifths_of_the_time_beside_a_long_prompt(make_rig):
    machine = Machine(make_rig, 0.5, tile=64)
    machine.chats(8)
    prompt = machine.rig.submit(b"x" * 4096, max_output=2)
    while not prompt.output.tokens:
        machine.step()
    while machine.steps.pop()[0]:  # what came after the last part
        pass
    all_s = sum(seconds for _, seconds in machine.steps)
    decoding_s = sum(seconds for size, seconds in machine.steps if not size)
    assert decoding_s / all_s == pytest.approx(2 / 5, abs=0.05)


def test_short_prompts_do_not_wait_for_the_turn_of_a_long_one(make_rig):
    machine = Machine(make_rig, 0.9, token_s=0.01, whole_tokens=BUDGET, tile=64)
    machine.chats(8)
    machine.rig.submit(b"x" * 4096, max_output=2)
    assert kinds(machine, 10) == "PddddPdddd"
    machine.rig.submit(b"y" * 100, max_output=2)
    assert kinds(machine, 5) == "Pdddd"


def test_a_part_is_no_longer_than_what_is_computed_of_its_prompt(make_rig):
    machine = Machine(make_rig, 3.0, whole_tokens=BUDGET, tile=64)
    machine.chats(8)
    machine.rig.submit(b"x" * 4096, max_output=2)
    for _ in range(40):
        machine.step()
    sizes = [size for size, _ in machine.steps if size]
    assert sizes[:5] == [64, 64, 128, 256, 512]
