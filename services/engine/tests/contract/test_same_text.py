"""Sixteen, or sixty-four, streams that decode together are the same as alone.

Texts are not compared: companions change rounding, and a near tie then takes another branch. Three
checks instead: the state is exact (each position has one cell, and the cell holds what a solo
computation holds), the accounting is exact, and as a backstop each emitted token is within rounding
of the best in a solo pass. Mutations of the state must fail the first check.
"""

import asyncio
import sys
from contextlib import closing
from dataclasses import dataclass
from itertools import accumulate

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest

from caravan_engine.backends.kv_state import parse_kv_state
from caravan_engine.backends.llama_cpp import LlamaCppBackend, LlamaCppSettings
from caravan_engine.domain.events import Delta, Finished
from caravan_engine.domain.paging.kv_setup import KvOptions, make_kv_manager
from caravan_engine.domain.request import GenerationRequest
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.sampling.token_sampler import TokenSampler
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.domain.step import Chunk, StepPlan
from caravan_engine.runtime.engine_loop import EngineLoop
from caravan_engine.runtime.output_stream import LoopNotifier
from caravan_engine.runtime.page_mover import PagedMemory
from caravan_engine.storage.checksums import checksum

NUM_SEATS, NUM_CELLS = 16, 4096
OUTPUT_TOKENS, CHECK_EVERY = 60, 5
GREEDY = SamplingOptions(temperature=0)
SAMPLER = TokenSampler(GREEDY, seed=0, candidates=None, history=())


@dataclass(frozen=True)
class Load:
    """How many decode together, of how many in all; at `watched_step` every seat is taken."""

    num_seats: int
    num_streams: int
    token_budget: int
    watched_step: int


SIXTEEN = Load(num_seats=16, num_streams=28, token_budget=48, watched_step=60)
SIXTY_FOUR = Load(num_seats=64, num_streams=96, token_budget=512, watched_step=25)


def load(path, *, num_seats=NUM_SEATS, num_cells=NUM_CELLS):
    return LlamaCppBackend(
        LlamaCppSettings(
            model_path=path,
            num_cells=num_cells,
            num_seats=num_seats + 2,  # two sequences more for the mutations
            batch_tokens=512,
        )
    )


@pytest.fixture(scope="module")
def backend(tiny_gguf):
    with closing(load(tiny_gguf)) as backend:
        yield backend


@pytest.fixture(scope="module")
def solo(tiny_gguf):
    """Computes sequences alone, from scratch."""
    with closing(load(tiny_gguf)) as backend:
        yield Solo(backend)


class Solo:
    def __init__(self, backend):
        self._backend = backend

    def state(self, tokens, *, chunk_tokens=512):
        """Returns K and V by position, each row as one vector: (position, features)."""
        self._compute(tokens, chunk_tokens)
        rows = by_position(self._backend.export_state(0))
        self._backend.release(0)
        return rows

    def logits(self, tokens, first, *, chunk_tokens=512):
        """Returns the logits after each of `tokens[first:]`; what is before comes in chunks."""
        self._compute(tokens[:first], chunk_tokens)
        rows = [
            self._backend.decode(StepPlan((), (Chunk(0, at, (tokens[at],), SAMPLER),)))[0].copy()
            for at in range(first, len(tokens))
        ]
        self._backend.release(0)
        return np.array(rows)

    def _compute(self, tokens, chunk_tokens):
        for start in range(0, len(tokens), chunk_tokens):
            part = tuple(tokens[start : start + chunk_tokens])
            self._backend.decode(StepPlan((), (Chunk(0, start, part, None),)))


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


def by_position(state):
    parsed = parse_kv_state(state)
    order = np.argsort(parsed.positions)
    layers = [rows[order].view(np.float16).astype(np.float32) for rows in parsed.keys]
    layers += [rows[order].view(np.float16).astype(np.float32) for rows in parsed.values]
    return layers


def distances(one, other):
    """Returns for each position the largest relative distance over all layers' K and V."""
    per_layer = [
        np.linalg.norm(a - b, axis=1) / np.linalg.norm(b, axis=1)
        for a, b in zip(one, other, strict=True)
    ]
    return np.max(per_layer, axis=0)


def calibrate(solo, tokens):
    """Returns how far rounding moves a row, how near the rows of wrong cells come, and a bound."""
    whole = solo.state(tokens)
    rounding = max(
        distances(solo.state(tokens, chunk_tokens=size), whole).max() for size in (1, 7, 64)
    )
    shifted = [np.roll(layer, 1, axis=0) for layer in whole]
    wrong = np.quantile(distances(shifted, whole), 0.01)
    bound = float(np.sqrt(max(rounding, 1e-3) * wrong))
    say(f"K/V rows: rounding up to {rounding:.2e}, wrong cells from {wrong:.2e}, bound {bound:.2e}")
    assert rounding * 10 < wrong
    return bound


def logit_rounding(solo, tokens):
    """Returns how far the division of a history into chunks moves the logits after it."""
    one, other = (solo.logits(tokens, len(tokens) - 1, chunk_tokens=size) for size in (512, 1))
    return np.abs(one - other).max()


def say(line):
    print(line, file=sys.stderr)


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


# ── the three checks ──


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


# ── choices that share a prompt ──

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


# ── mutations: the state check must fail ──

FIRST, LAST = 20, 28


def drop(memory):
    lib.llama_memory_seq_rm(memory, 0, FIRST, FIRST + 1)


def double(memory):
    lib.llama_memory_seq_cp(memory, 1, 0, FIRST, FIRST + 1)


def take_cells_of_another_sequence(memory):
    lib.llama_memory_seq_rm(memory, 0, FIRST, LAST)
    lib.llama_memory_seq_cp(memory, 1, 0, FIRST, LAST)


def swap_two_ranges(memory):
    width, scratch = LAST - FIRST, NUM_SEATS
    for seat, start in ((scratch, FIRST), (scratch + 1, LAST)):
        lib.llama_memory_seq_cp(memory, 0, seat, start, start + width)
    lib.llama_memory_seq_rm(memory, 0, FIRST, LAST + width)
    lib.llama_memory_seq_add(memory, scratch, FIRST, LAST, width)
    lib.llama_memory_seq_add(memory, scratch + 1, LAST, LAST + width, -width)
    for seat, start in ((scratch, LAST), (scratch + 1, FIRST)):
        lib.llama_memory_seq_cp(memory, seat, 0, start, start + width)
        lib.llama_memory_seq_rm(memory, seat, -1, -1)


def swap_two_neighbours(memory):
    lib.llama_memory_seq_cp(memory, 0, NUM_SEATS, FIRST, FIRST + 1)
    lib.llama_memory_seq_rm(memory, 0, FIRST, FIRST + 1)
    lib.llama_memory_seq_add(memory, 0, FIRST + 1, FIRST + 2, -1)
    lib.llama_memory_seq_add(memory, NUM_SEATS, FIRST, FIRST + 1, 1)
    lib.llama_memory_seq_cp(memory, NUM_SEATS, 0, FIRST + 1, FIRST + 2)
    lib.llama_memory_seq_rm(memory, NUM_SEATS, -1, -1)


@pytest.fixture
def two_sequences(backend):
    """Two sequences in memory, and a look at the raw memory."""
    histories = [tuple(range(300 + 50 * seat, 345 + 50 * seat)) for seat in range(2)]
    for seat, tokens in enumerate(histories):
        backend.decode(StepPlan((), (Chunk(seat, 0, tokens, None),)))
    yield histories
    for seq_id in range(NUM_SEATS + 2):
        backend.release(seq_id)


def state_faults(backend, histories, solo, bound):
    """The state check: cells by count, then cells by content."""
    faults = backend.check_integrity(
        {seat: range(len(each)) for seat, each in enumerate(histories)}
    )
    if faults:
        return faults
    return [
        f"sequence {seat}: position {position} is not its own"
        for seat, tokens in enumerate(histories)
        for position in np.flatnonzero(
            distances(by_position(backend.export_state(seat)), solo.state(tokens)) > bound
        )
    ]


def test_an_untouched_state_passes(backend, two_sequences, solo):
    bound = calibrate(solo, two_sequences[0])
    assert state_faults(backend, two_sequences, solo, bound) == []


@pytest.mark.parametrize("mutate", [drop, double])
def test_a_missing_or_doubled_position_is_counted(backend, two_sequences, solo, mutate):
    mutate(backend.memory)
    faults = state_faults(backend, two_sequences, solo, bound=np.inf)
    assert len(faults) == 1
    assert f"position {FIRST} has" in faults[0]


@pytest.mark.parametrize(
    ("mutate", "num_wrong"),
    [
        (take_cells_of_another_sequence, LAST - FIRST),
        (swap_two_ranges, 2 * (LAST - FIRST)),
        (swap_two_neighbours, 2),
    ],
)
def test_cells_at_the_wrong_place_hold_other_rows(backend, two_sequences, solo, mutate, num_wrong):
    bound = calibrate(solo, two_sequences[0])
    mutate(backend.memory)
    assert backend.check_integrity({0: range(45), 1: range(45)}) == []  # their number is right
    assert len(state_faults(backend, two_sequences, solo, bound)) == num_wrong
