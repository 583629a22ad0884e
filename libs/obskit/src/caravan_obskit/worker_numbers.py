"""What is counted about workers, as plain values that can be added up.

Pure Python on purpose: domain code may import it. The bucket bounds of every distribution are
fixed here, once; workers observe into them and exporters print them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from caravan_obskit.kv_numbers import KvCounters, KvGauges


class Measure(StrEnum):
    """What a distribution measures; the names equal `caravan.engine.v1.HistogramKind`'s."""

    TIME_TO_FIRST_TOKEN_SECONDS = "time_to_first_token_seconds"  # noqa: S105 (a duration)
    INTER_TOKEN_LATENCY_SECONDS = "inter_token_latency_seconds"  # noqa: S105 (a duration)
    TIME_PER_OUTPUT_TOKEN_SECONDS = "time_per_output_token_seconds"  # noqa: S105 (a duration)
    END_TO_END_SECONDS = "end_to_end_seconds"
    QUEUE_SECONDS = "queue_seconds"
    INFERENCE_SECONDS = "inference_seconds"
    PREFILL_SECONDS = "prefill_seconds"
    DECODE_SECONDS = "decode_seconds"
    REQUEST_LATENCY_MS = "request_latency_ms"


_FIRST_TOKEN_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_TOKEN_BOUNDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_REQUEST_BOUNDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
_LATENCY_MS_BOUNDS = (
    *(1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0),
    *(1000.0, 2500.0, 5000.0, 10000.0, 30000.0, 60000.0),
)

BOUNDS: Mapping[Measure, tuple[float, ...]] = MappingProxyType(
    {
        Measure.TIME_TO_FIRST_TOKEN_SECONDS: _FIRST_TOKEN_BOUNDS,
        Measure.INTER_TOKEN_LATENCY_SECONDS: _TOKEN_BOUNDS,
        Measure.TIME_PER_OUTPUT_TOKEN_SECONDS: _TOKEN_BOUNDS,
        Measure.END_TO_END_SECONDS: _REQUEST_BOUNDS,
        Measure.QUEUE_SECONDS: _REQUEST_BOUNDS,
        Measure.INFERENCE_SECONDS: _REQUEST_BOUNDS,
        Measure.PREFILL_SECONDS: _REQUEST_BOUNDS,
        Measure.DECODE_SECONDS: _REQUEST_BOUNDS,
        Measure.REQUEST_LATENCY_MS: _LATENCY_MS_BOUNDS,
    }
)
"""Upper bounds of the buckets, ascending; one more bucket without bound follows."""


class Outcome(StrEnum):
    """How a request ended, coarse enough to be a label."""

    STOP = "stop"  # the model's end, a stop string, a filter
    LENGTH = "length"
    ABORT = "abort"  # the caller's doing: left, deadline passed, stopped reading
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Distribution:
    """Observations per bucket (not cumulated, the last bucket without bound) and their sum."""

    counts: tuple[int, ...]
    total: float

    @classmethod
    def empty(cls, measure: Measure) -> "Distribution":
        """Returns the distribution without observations."""
        return cls(counts=(0,) * (len(BOUNDS[measure]) + 1), total=0.0)

    @property
    def count(self) -> int:
        """Number of observations."""
        return sum(self.counts)

    def __add__(self, other: "Distribution") -> "Distribution":
        counts = tuple(map(int.__add__, self.counts, other.counts))
        return Distribution(counts=counts, total=self.total + other.total)


def _no_outcomes() -> Mapping[Outcome, int]:
    return dict.fromkeys(Outcome, 0)


def _no_distributions() -> Mapping[Measure, Distribution]:
    return {measure: Distribution.empty(measure) for measure in Measure}


@dataclass(frozen=True, slots=True)
class WorkerCounters:
    """What only ever grows, since the start of a process; both mappings hold every key."""

    input_tokens: int = 0
    output_tokens: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    steps: int = 0
    layers_evicted: int = 0
    handovers_taken: int = 0  # requests that went on from what another worker left
    handovers_recomputed: int = 0  # those of which nothing was left
    outcomes: Mapping[Outcome, int] = field(default_factory=_no_outcomes)
    distributions: Mapping[Measure, Distribution] = field(default_factory=_no_distributions)
    kv: KvCounters = field(default_factory=KvCounters)

    @property
    def finished_requests(self) -> int:
        """Requests that ended, well or badly."""
        return sum(self.outcomes.values())

    def __add__(self, other: "WorkerCounters") -> "WorkerCounters":
        return WorkerCounters(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            prefix_query_tokens=self.prefix_query_tokens + other.prefix_query_tokens,
            prefix_hit_tokens=self.prefix_hit_tokens + other.prefix_hit_tokens,
            steps=self.steps + other.steps,
            layers_evicted=self.layers_evicted + other.layers_evicted,
            handovers_taken=self.handovers_taken + other.handovers_taken,
            handovers_recomputed=self.handovers_recomputed + other.handovers_recomputed,
            outcomes={key: n + other.outcomes[key] for key, n in self.outcomes.items()},
            distributions={
                measure: seen + other.distributions[measure]
                for measure, seen in self.distributions.items()
            },
            kv=self.kv + other.kv,
        )


@dataclass(frozen=True, slots=True)
class WorkerGauges:
    """How it stands at this moment."""

    running_count: int = 0  # sequences with a seat
    waiting_count: int = 0
    paused_count: int = 0  # those of them that wait for their reader
    seat_count: int = 0
    used_cell_count: int = 0
    cell_count: int = 0
    output_tokens_per_second: float = 0.0
    resident_bytes: int = 0
    gpu_layer_count: int = 0
    cpu_layer_count: int = 0
    kept_stream_count: int = 0  # generations that are kept for whoever comes back
    unread_stream_count: int = 0  # those of them that nobody reads
    kept_stream_bytes: int = 0
    kv: KvGauges = field(default_factory=KvGauges)

    @property
    def active_count(self) -> int:
        """Requests that were taken in and have not ended."""
        return self.running_count + self.waiting_count + self.kv.parked_count

    @property
    def decoding_count(self) -> int:
        """Sequences that take part in steps."""
        return max(0, self.running_count - self.paused_count)

    def __add__(self, other: "WorkerGauges") -> "WorkerGauges":
        return WorkerGauges(
            running_count=self.running_count + other.running_count,
            waiting_count=self.waiting_count + other.waiting_count,
            paused_count=self.paused_count + other.paused_count,
            seat_count=self.seat_count + other.seat_count,
            used_cell_count=self.used_cell_count + other.used_cell_count,
            cell_count=self.cell_count + other.cell_count,
            output_tokens_per_second=(
                self.output_tokens_per_second + other.output_tokens_per_second
            ),
            resident_bytes=self.resident_bytes + other.resident_bytes,
            gpu_layer_count=self.gpu_layer_count + other.gpu_layer_count,
            cpu_layer_count=self.cpu_layer_count + other.cpu_layer_count,
            kept_stream_count=self.kept_stream_count + other.kept_stream_count,
            unread_stream_count=self.unread_stream_count + other.unread_stream_count,
            kept_stream_bytes=self.kept_stream_bytes + other.kept_stream_bytes,
            kv=self.kv + other.kv,
        )


@dataclass(frozen=True, slots=True)
class WorkerNumbers:
    """One snapshot of one worker process, which `worker_id` names.

    `device_bytes` is what is in use on each device as a whole, whoever uses it: workers that
    share a device report the same bytes.
    """

    worker_id: str
    model: str
    replica_index: int
    counters: WorkerCounters
    gauges: WorkerGauges
    device_bytes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ModelNumbers:
    """The numbers of one model, summed; `gauges` is None while no worker serves it."""

    counters: WorkerCounters
    gauges: WorkerGauges | None


@dataclass(frozen=True, slots=True)
class SystemNumbers:
    """The numbers of all models on all hosts."""

    models: Mapping[str, ModelNumbers]
    device_bytes: Mapping[str, int]
    requests_per_second: float
