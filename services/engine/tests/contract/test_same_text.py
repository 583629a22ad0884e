"""Sixteen, or sixty-four, streams that decode together are the same as alone.

Texts are not compared: companions change rounding, and a near tie then takes another branch. Three
checks instead: the state is exact (each position has one cell, and the cell holds what a solo
computation holds), the accounting is exact, and as a backstop each emitted token is within rounding
of the best in a solo pass. `test_state_check` shows that the first check finds what is wrong.
"""

import asyncio
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pytest
from solo_check import (
    NUM_CELLS,
    NUM_SEATS,
    by_position,
    calibrate,
    distances,
    load,
    logit_rounding,
    say,
)

from caravan_engine.domain.events import Delta, Finished
from caravan_engine.domain.paging.kv_setup import KvOptions, make_kv_manager
from caravan_engine.domain.request import GenerationRequest
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.runtime.engine_loop import EngineLoop
from caravan_engine.runtime.output_stream import LoopNotifier
from caravan_engine.runtime.page_mover import PagedMemory
from caravan_engine.storage.checksums import checksum


@dataclass(frozen=True)
class Load:
    """How many decode together, of how many in all; at `watched_step` every seat is taken."""

    num_seats: int
    num_streams: int
    token_budget: int
    watched_step: int


OUTPUT_TOKENS, CHECK_EVERY = 60, 5
GREEDY = SamplingOptions(temperature=0)
SIXTEEN = Load(num_seats=16, num_streams=28, token_budget=48, watched_step=60)
SIXTY_FOUR = Load(num_seats=64, num_streams=96, token_budget=512, watched_step=25)


class Watched:
    """Passes everything on, keeps a ledger of what was computed, and checks it as it goes."""

    def __init__(self, backend, watched_step):
        self._backend = backend
        self._watched_step = watched_step
        self.ledger = {}  # of each sequence, its tokens by position
        self.released = {}
        self.faults = []
        self.snapshots = {}
        self.num_tokens = 0
        self._num_steps = 0

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def release(self, seq_id, start, end):
        self._backend.release(seq_id, start, end)
        held = self.released[seq_id] = self.ledger.pop(seq_id, {})
        kept = {at: held[at] for at in held if at < start or (end is not None and at >= end)}
        if kept:
            self.ledger[seq_id] = kept

    def share(self, source, target, start, end):
        self._backend.share(source, target, start, end)
        tokens = self.ledger.setdefault(target, {})
        assert not tokens.keys() & range(start, end)
        tokens.update({at: self.ledger[source][at] for at in range(start, end)})

    def import_page(self, image, seq_id, start, end):
        tokens = self.ledger.setdefault(seq_id, {})
        assert not tokens.keys() & range(start, end)
        if image.info.key:
            tokens.update(
                {at: image.info.tokens[at - image.info.start] for at in range(start, end)}
            )
        else:  # relocated
            tokens.update({at: self.released[seq_id][at] for at in range(start, end)})
        return self._backend.import_page(image, seq_id, start, end)

    def decode(self, plan):
        rows = self._backend.decode(plan)
        for chunk in plan.chunks:
            tokens = self.ledger.setdefault(chunk.seq_id, {})
            assert tokens.keys() == set(range(chunk.start))
            tokens.update(enumerate(chunk.tokens, chunk.start))
        self._num_steps += 1
        self.num_tokens += plan.num_tokens
        if self._num_steps % CHECK_EVERY == 0:
            self.faults += self._backend.check_integrity(
                {seq_id: tuple(tokens) for seq_id, tokens in self.ledger.items()}
            )
        if self._num_steps == self._watched_step:
            self.snapshots = {
                tuple(tokens[at] for at in sorted(tokens)): by_position(
                    self._backend.export_state(seq_id)
                )
                for seq_id, tokens in self.ledger.items()
            }
        return rows


def prompt(number):
    generator = np.random.default_rng(number)
    return tuple(map(int, generator.integers(300, 1000, 5 + 11 * (number % 9))))


def single(number):
    """A stream of its own; some end early."""
    return GenerationRequest(
        request_id=str(number),
        prompt=prompt(number),
        sampling=GREEDY,
        seed=0,
        max_output_tokens=12 if number % 4 == 0 else OUTPUT_TOKENS,
        ignore_eos=True,
    )


def with_choices(number):
    return GenerationRequest(
        request_id=str(number),
        prompt=prompt(number),
        sampling=SamplingOptions(temperature=1.5, top_k=0),
        seed=number,
        max_output_tokens=OUTPUT_TOKENS,
        ignore_eos=True,
        choice_count=4,
    )


async def generate(backend, load, requests):
    """Runs requests at once and returns each one's events."""
    options = KvOptions(num_seats=load.num_seats, num_cells=backend.facts.num_cells)
    engine = EngineLoop(
        backend,
        SchedulerLimits(
            num_seats=load.num_seats,
            num_cells=backend.facts.num_cells,
            context_tokens=1024,
            token_budget=load.token_budget,
        ),
        PagedMemory(make_kv_manager(options), checksum),
        notify=LoopNotifier(asyncio.get_running_loop()),
        on_fatal=lambda error: pytest.exit(f"fatal: {error}"),
    )
    engine.start()

    async def one(request):
        return [event async for event in engine.submit(request)]

    try:
        return await asyncio.gather(*map(one, requests))
    finally:
        await asyncio.to_thread(engine.stop)


@pytest.fixture(scope="module", params=[SIXTEEN, SIXTY_FOUR], ids=["16", "64"])
def run(request, tiny_gguf):
    together = request.param
    cells = NUM_CELLS * together.num_seats // NUM_SEATS
    with closing(load(tiny_gguf, num_seats=together.num_seats, num_cells=cells)) as backend:
        watched = Watched(backend, together.watched_step)
        requests = map(single, range(together.num_streams))
        streams = asyncio.run(generate(watched, together, requests))
    assert len(watched.snapshots) == together.num_seats
    return watched, streams


def tokens_of(events):
    return [token for event in events if isinstance(event, Delta) for token in event.token_ids]


def test_each_position_of_each_sequence_has_exactly_one_cell_after_every_step(run):
    watched, _ = run
    assert watched.faults == []
    assert watched.ledger == {}


def test_what_was_computed_is_the_history_of_one_stream(run):
    watched, streams = run
    histories = [(*prompt(number), *tokens_of(events)) for number, events in enumerate(streams)]
    for computed in watched.snapshots:
        assert sum(history[: len(computed)] == computed for history in histories) == 1


def test_every_cell_holds_what_a_solo_computation_holds(run, solo):
    watched, _ = run
    bound = calibrate(solo, max(watched.snapshots, key=len))
    worst = 0.0
    for tokens, state in watched.snapshots.items():
        found = distances(state, solo.state(tokens)).max()
        worst = max(worst, found)
        assert found < bound
    say(f"K/V rows: {len(watched.snapshots)} concurrent sequences within {worst:.2e} of solo")


def test_the_accounting_is_exact(run):
    _, streams = run
    for events in streams:
        deltas = [event for event in events if isinstance(event, Delta)]
        sizes = [len(event.token_ids) for event in deltas]
        assert [event.token_offset for event in deltas] == [0, *accumulate(sizes)][:-1]
        (finished,) = (event for event in events if isinstance(event, Finished))
        assert finished.output_tokens == sum(sizes) in (12, OUTPUT_TOKENS)


def test_every_emitted_token_is_within_rounding_of_the_best(run, solo):
    _, streams = run
    histories = [(*prompt(number), *tokens_of(each)) for number, each in enumerate(streams)]
    rounding = max(logit_rounding(solo, history) for history in histories)
    bound = 4 * rounding
    worst, switched = 0.0, 0
    for number, history in enumerate(histories):
        start = len(prompt(number))
        logits = solo.logits(history, start - 1)[:-1]
        emitted = logits[np.arange(len(logits)), history[start:]]
        gaps = logits.max(axis=1) - emitted
        worst, switched = max(worst, gaps.max()), switched + int((gaps > 0).sum())
        assert gaps.max() <= bound
    say(f"logits: emitted tokens at most {worst:.4f} below the best, bound {bound:.4f};")
    say(f"        chunks move a logit by up to {rounding:.4f}; {switched} near ties")


NUM_GROUPS = 7


@pytest.fixture(scope="module")
def shared_run(backend):
    watched = Watched(backend, SIXTEEN.watched_step)
    requests = map(with_choices, range(NUM_GROUPS))
    return watched, asyncio.run(generate(watched, SIXTEEN, requests))


def texts_by_choice(events):
    return [
        tuple(
            token
            for event in events
            if isinstance(event, Delta) and event.choice_index == choice
            for token in event.token_ids
        )
        for choice in range(4)
    ]


def test_choices_have_one_cell_for_each_position_and_their_own_histories(shared_run):
    watched, streams = shared_run
    assert watched.faults == []
    assert watched.ledger == {}
    assert len(watched.snapshots) == NUM_SEATS
    histories = [
        (*prompt(number), *text)
        for number, events in enumerate(streams)
        for text in texts_by_choice(events)
    ]
    assert len(set(histories)) == 4 * NUM_GROUPS
    for computed in watched.snapshots:
        assert sum(history[: len(computed)] == computed for history in histories) == 1


def test_shared_cells_hold_what_a_solo_computation_holds(shared_run, solo):
    watched, _ = shared_run
    bound = calibrate(solo, max(watched.snapshots, key=len))
    for tokens, state in watched.snapshots.items():
        assert distances(state, solo.state(tokens)).max() < bound


def test_a_prompt_is_computed_once_for_all_its_choices(shared_run):
    watched, streams = shared_run
    num_computed = sum(len(prompt(number)) - 1 for number in range(NUM_GROUPS))
    num_computed += (
        NUM_GROUPS * 4 * OUTPUT_TOKENS
    )  # the last of the prompt, all but the last output
    assert watched.num_tokens == num_computed
    for number, events in enumerate(streams):
        completed = events[-1]
        assert completed.input_tokens == len(prompt(number))
        assert completed.output_tokens == 4 * OUTPUT_TOKENS
