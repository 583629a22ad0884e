"""The worker's numbers: counters and distributions since the process started."""

import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, auto

from caravan_engine.domain.kv_numbers import KvSnapshot
from caravan_engine.domain.request import GenerationRequest
from caravan_engine.domain.sequence import Sequence, SequenceGroup
from caravan_engine.domain.step import StepResult

_TTFT_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_PER_TOKEN_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_REQUEST_MS = (
    *(1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0),
    *(10_000.0, 30_000.0, 60_000.0),
)
_RATE_WINDOW_S = 10


class Distribution(StrEnum):
    """What is measured."""

    TIME_TO_FIRST_TOKEN_S = auto()
    INTER_TOKEN_LATENCY_S = auto()
    TIME_PER_OUTPUT_TOKEN_S = auto()
    END_TO_END_S = auto()
    QUEUE_S = auto()
    INFERENCE_S = auto()
    PREFILL_S = auto()
    DECODE_S = auto()
    REQUEST_LATENCY_MS = auto()


BOUNDS: dict[Distribution, tuple[float, ...]] = {
    Distribution.TIME_TO_FIRST_TOKEN_S: _TTFT_S,
    Distribution.INTER_TOKEN_LATENCY_S: _PER_TOKEN_S,
    Distribution.TIME_PER_OUTPUT_TOKEN_S: _PER_TOKEN_S,
    Distribution.END_TO_END_S: _REQUEST_S,
    Distribution.QUEUE_S: _REQUEST_S,
    Distribution.INFERENCE_S: _REQUEST_S,
    Distribution.PREFILL_S: _REQUEST_S,
    Distribution.DECODE_S: _REQUEST_S,
    Distribution.REQUEST_LATENCY_MS: _REQUEST_MS,
}


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """`counts` has one bucket more than `bounds`, for what is over the last."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


@dataclass(slots=True)
class _Histogram:
    bounds: tuple[float, ...]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def snapshot(self) -> HistogramSnapshot:
        return HistogramSnapshot(self.bounds, tuple(self.counts), self.total)


@dataclass(frozen=True, slots=True)
class Gauges:
    """What the scheduler looks like after a step."""

    num_running: int = 0
    num_paused: int = 0
    num_parked: int = 0  # requests that gave up their seats for a time
    kv: KvSnapshot = field(default_factory=KvSnapshot)


@dataclass(frozen=True, slots=True)
class StatsSnapshot:
    """All numbers of one moment."""

    input_tokens: int  # of admitted requests
    prefix_query_tokens: int  # input tokens that were looked for in cells and pages
    prefix_hit_tokens: int  # and found, so that they were not computed again
    num_parkings: int  # how often a request gave up its seats
    output_tokens: int
    outcomes: dict[str, int]  # finish reason, or error reason in lower case
    num_steps: int
    is_stepping: bool  # a step is being computed
    decode_s: float  # inside the backend
    sample_s: float  # choosing tokens
    step_s: float  # whole steps
    output_tokens_per_s: float  # over the last ten seconds
    waiting: Mapping[int, int]  # requests by priority
    num_seats: int
    num_cells: int
    gauges: Gauges
    histograms: dict[Distribution, HistogramSnapshot]

    @property
    def num_waiting(self) -> int:
        """Requests that wait for their first seat."""
        return sum(self.waiting.values())


class _TokenRate:
    """Tokens per second over the last ten complete seconds."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque()

    def add(self, num_tokens: int, now: float) -> None:
        second = int(now)
        if self._seconds and self._seconds[-1][0] == second:
            num_tokens += self._seconds.pop()[1]
        self._seconds.append((second, num_tokens))
        while self._seconds[0][0] < second - _RATE_WINDOW_S:
            self._seconds.popleft()

    def per_second(self, now: float) -> float:
        present = int(now)
        oldest = present - _RATE_WINDOW_S
        return sum(num for at, num in self._seconds if oldest <= at < present) / _RATE_WINDOW_S


class EngineStats:
    """Written by the decode thread (refusals by any), read by any thread.

    Implements `domain.ports.SchedulerObserver`.
    """

    def __init__(self, *, num_seats: int, num_cells: int) -> None:
        self._num_seats = num_seats
        self._num_cells = num_cells
        self._lock = threading.Lock()
        self._histograms = {kind: _Histogram(bounds) for kind, bounds in BOUNDS.items()}
        self._outcomes: Counter[str] = Counter()
        self._rate = _TokenRate()
        self._gauges = Gauges()
        self._input_tokens = 0
        self._prefix_query_tokens = 0
        self._prefix_hit_tokens = 0
        self._num_parkings = 0
        self._output_tokens = 0
        self._num_steps = 0
        self._is_stepping = False
        self._decode_s = 0.0
        self._sample_s = 0.0
        self._step_s = 0.0

    # ── domain.ports.SchedulerObserver ──

    def admitted(self, group: SequenceGroup, now: float) -> None:
        """Changes nothing: what of a request is cached is known when it is started."""

    def started(self, group: SequenceGroup, now: float) -> None:
        """Counts a request's input and its time in the queue."""
        with self._lock:
            self._input_tokens += group.num_prompt_tokens
            if isinstance(group.request, GenerationRequest):  # nothing is kept of what is embedded
                self._prefix_query_tokens += group.num_prompt_tokens
                self._prefix_hit_tokens += min(group.cached_tokens, group.num_prompt_tokens)
            self._observe(Distribution.QUEUE_S, now - group.times.arrived)

    def parked(self, group: SequenceGroup, now: float) -> None:
        """Counts a request that gave up its seats for a time."""
        with self._lock:
            self._num_parkings += 1

    def generated(self, sequence: Sequence, now: float) -> None:
        """Measures the gap before a token."""
        times = sequence.group.times
        with self._lock:
            self._output_tokens += 1
            if sequence.last_token_at is not None:
                self._observe(Distribution.INTER_TOKEN_LATENCY_S, now - sequence.last_token_at)
            elif times.first_token is None:
                self._observe(Distribution.TIME_TO_FIRST_TOKEN_S, now - times.arrived)

    def ended(self, group: SequenceGroup, outcome: str, now: float) -> None:
        """Counts an outcome and measures the whole life of a request."""
        with self._lock:
            self._outcomes[outcome] += 1
            self._observe_life(group, now)

    # ── the engine loop ──

    def refused(self, outcome: str) -> None:
        """Counts a request that never entered the queue."""
        with self._lock:
            self._outcomes[outcome] += 1

    def stepping(self) -> None:
        """A step begins; it may never end."""
        self._is_stepping = True

    def stepped(self, result: StepResult, step_s: float, gauges: Gauges, now: float) -> None:
        """Takes the costs of a step and what it left."""
        with self._lock:
            self._num_steps += bool(result.plan.chunks) and result.is_computed
            self._is_stepping = False
            self._decode_s += result.decode_s
            self._sample_s += result.sample_s
            self._step_s += step_s
            self._gauges = gauges
            self._rate.add(len(result.tokens), now)

    def rested(self, gauges: Gauges) -> None:
        """Takes what is left when there is nothing to do."""
        with self._lock:
            self._gauges = gauges

    def snapshot(self, *, waiting: Mapping[int, int], now: float) -> StatsSnapshot:
        """Returns all numbers of this moment."""
        with self._lock:
            return StatsSnapshot(
                input_tokens=self._input_tokens,
                prefix_query_tokens=self._prefix_query_tokens,
                prefix_hit_tokens=self._prefix_hit_tokens,
                num_parkings=self._num_parkings,
                output_tokens=self._output_tokens,
                outcomes=dict(self._outcomes),
                num_steps=self._num_steps,
                is_stepping=self._is_stepping,
                decode_s=self._decode_s,
                sample_s=self._sample_s,
                step_s=self._step_s,
                output_tokens_per_s=self._rate.per_second(now),
                waiting=waiting,
                num_seats=self._num_seats,
                num_cells=self._num_cells,
                gauges=self._gauges,
                histograms={kind: each.snapshot() for kind, each in self._histograms.items()},
            )

    def _observe(self, kind: Distribution, value: float) -> None:
        self._histograms[kind].observe(value)

    def _observe_life(self, group: SequenceGroup, now: float) -> None:
        times = group.times
        self._observe(Distribution.END_TO_END_S, now - times.arrived)
        self._observe(Distribution.REQUEST_LATENCY_MS, (now - times.arrived) * 1000)
        if times.started is not None:
            self._observe(Distribution.INFERENCE_S, now - times.started)
        if times.started is not None and times.first_token is not None:
            self._observe(Distribution.PREFILL_S, times.first_token - times.started)
            self._observe(Distribution.DECODE_S, now - times.first_token)
        for sequence in group.sequences:
            self._observe_pace(sequence)

    def _observe_pace(self, sequence: Sequence) -> None:
        num_gaps = sequence.num_generated_tokens - 1
        first, last = sequence.first_token_at, sequence.last_token_at
        if num_gaps > 0 and first is not None and last is not None:
            self._observe(Distribution.TIME_PER_OUTPUT_TOKEN_S, (last - first) / num_gaps)
