"""The gateway's instruments."""

from collections.abc import Callable, Mapping

from caravan_gateway.domain.failover import FailoverOutcome
from caravan_gateway.domain.inference_call import InferenceCall
from caravan_gateway.runtime.call_spans import operation_of
from caravan_obskit import genai
from caravan_obskit.instruments import Instruments, Label
from caravan_rpckit.observers import CallRecord

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_INTERNAL_PREFIXES = ("grpc.health.", "grpc.reflection.")


class CallMetrics:
    """Counts calls; told by the server about each.

    `num_active` also counts a call that is over here and whose client has not read its end.
    """

    def __init__(self, instruments: Instruments) -> None:
        self.num_active = 0
        method = Label("method", most=64)
        self._requests = instruments.counter(
            "caravan_gateway_requests_total",
            unit="calls",
            description="Calls that ended, by method and gRPC code.",
            labels=(method, Label("code", most=20)),
        )
        self._refusals = instruments.counter(
            "caravan_gateway_refusals_total",
            unit="calls",
            description="Calls that ended with an error, by its reason.",
            labels=(Label("reason", most=64),),
        )
        self._durations = instruments.histogram(
            "caravan_gateway_request_duration_seconds",
            unit="seconds",
            description="From arrival to the end of a call.",
            buckets=_SECONDS,
            labels=(method,),
        )
        self._active = instruments.gauge(
            "caravan_gateway_requests_active",
            unit="calls",
            description="Calls in progress.",
        )

    def call_started(self, method: str) -> None:
        """A call begins."""
        if not method.startswith(_INTERNAL_PREFIXES):
            self.num_active += 1
            self._active.of().set(self.num_active)

    def call_ended(self, record: CallRecord) -> None:
        """A call is over."""
        if record.method.startswith(_INTERNAL_PREFIXES):
            return
        self.num_active -= 1
        self._active.of().set(self.num_active)
        self._requests.of(method=record.method, code=record.code.name).inc()
        self._durations.of(method=record.method).observe(record.duration_s)
        if record.reason:
            self._refusals.of(reason=record.reason).inc()


class UsageMetrics:
    """Counts usage records; told by their delivery."""

    def __init__(self, instruments: Instruments) -> None:
        self._dropped = instruments.counter(
            "caravan_gateway_usage_records_dropped_total",
            unit="records",
            description="Usage records that are lost, by cause: memory_full, disk, refused.",
            labels=(Label("cause", values=("memory_full", "disk", "refused")),),
        )
        self._late = instruments.counter(
            "caravan_gateway_usage_records_late_total",
            unit="records",
            description="Usage records that were not on disk when their call ended, by cause: disk "
            "(it takes none), slow, not_awaited.",
            labels=(Label("cause", values=("disk", "slow", "not_awaited")),),
        )
        self._delivered = instruments.counter(
            "caravan_gateway_usage_records_delivered_total",
            unit="records",
            description="Usage records that telemetry acknowledged.",
        )

    def dropped(self, count: int, cause: str) -> None:
        """Records are lost."""
        self._dropped.of(cause=cause).inc(count)

    def late(self, cause: str) -> None:
        """A call ended before its record was on disk."""
        self._late.of(cause=cause).inc()

    def delivered(self, count: int) -> None:
        """Records arrived."""
        self._delivered.of().inc(count)


class GenerationMetrics:
    """OpenTelemetry's histograms of generations; told of each inference call at its end."""

    def __init__(self, instruments: Instruments, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        operation = Label(genai.OPERATION_LABEL, values=tuple(genai.Operation))
        model = Label(genai.MODEL_LABEL, most=200)
        self._durations = instruments.histogram(
            genai.REQUEST_DURATION,
            unit="seconds",
            description="From the arrival of a generation to its end; `error_type` is the reason.",
            buckets=genai.DURATION_BUCKETS_S,
            labels=(operation, model, Label(genai.ERROR_LABEL, most=64)),
        )
        self._first_tokens = instruments.histogram(
            genai.TIME_TO_FIRST_TOKEN,
            unit="seconds",
            description="From the arrival of a generation to its first token.",
            buckets=genai.FIRST_TOKEN_BUCKETS_S,
            labels=(operation, model),
        )
        self._output_tokens = instruments.histogram(
            genai.TIME_PER_OUTPUT_TOKEN,
            unit="seconds",
            description="Time for each token after the first, of generations that ended well.",
            buckets=genai.OUTPUT_TOKEN_BUCKETS_S,
            labels=(operation, model),
        )

    def observe(self, call: InferenceCall) -> None:
        """A call is over."""
        operation = operation_of(call.spec)
        if operation is None or not call.model:  # what names no model we have is no generation
            return
        labels = {genai.OPERATION_LABEL: operation.value, genai.MODEL_LABEL: call.model}
        now_s, progress = self._clock(), call.progress
        self._durations.of(**labels, **{genai.ERROR_LABEL: call.outcome.reason}).observe(
            now_s - call.start_s
        )
        first_s, count = progress.first_token_s, progress.output_tokens
        if first_s is None:
            return
        self._first_tokens.of(**labels).observe(first_s - call.start_s)
        if count > 1 and not call.outcome.reason:
            self._output_tokens.of(**labels).observe((now_s - first_s) / (count - 1))


class FailoverMetrics:
    """Counts calls that lost their worker, and how long they paused."""

    def __init__(self, instruments: Instruments) -> None:
        self._failovers = instruments.counter(
            "caravan_gateway_failovers_total",
            unit="calls",
            description="Calls that lost their worker, by what became of them: continued, "
            "given_up, poison, or ended by caller or deadline.",
            labels=(Label("outcome", values=tuple(FailoverOutcome)),),
        )
        self._pauses = instruments.histogram(
            "caravan_gateway_failover_pause_seconds",
            unit="seconds",
            description="From the loss of a worker to the next event for the client.",
            buckets=_SECONDS,
        )

    def ended(self, outcome: FailoverOutcome) -> None:
        """It is decided what becomes of a call."""
        self._failovers.of(outcome=outcome.value).inc()

    def paused(self, pause_s: float) -> None:
        """A call went on."""
        self._pauses.of().observe(pause_s)


class LookupMetrics:
    """Counts how often policy did not have to be asked."""

    def __init__(self, instruments: Instruments) -> None:
        self._lookups = instruments.counter(
            "caravan_gateway_policy_lookups_total",
            unit="lookups",
            description="Questions for policy, by kind and whether the answer was remembered.",
            labels=(
                Label("kind", values=("authentication", "authorization")),
                Label("result", values=("hit", "miss")),
            ),
        )

    def observer(self, kind: str) -> Callable[[bool], None]:
        """Returns what is told of each lookup of `kind`."""
        results = {known: self._lookups.of(kind=kind, result=result) for known, result in _RESULTS}
        return lambda known: results[known].inc()


_RESULTS = ((True, "hit"), (False, "miss"))


def declare_gauges(instruments: Instruments, readings: Mapping[str, Callable[[], float]]) -> None:
    """Declares what is read at the moment of a scrape.

    Args:
        instruments: where to declare.
        readings: one for each name in `GAUGES`.

    Raises:
        KeyError: a reading is missing.
    """
    for name, (unit, description) in GAUGES.items():
        gauge = instruments.gauge(f"caravan_gateway_{name}", unit=unit, description=description)
        gauge.of().set_function(readings[name])


GAUGES: Mapping[str, tuple[str, str]] = {
    "usage_spool_depth": ("records", "Usage records that telemetry does not have yet."),
    "credential_cache_entries": ("entries", "Credentials whose holder is remembered."),
    "decision_cache_entries": ("entries", "Decisions that are remembered."),
    "workers_known": ("workers", "Workers that take calls, as far as their hosts said."),
    "worker_channels": ("channels", "Open channels to workers."),
    "calls_without_worker": ("calls", "New calls that wait for a worker to come."),
    "worker_calls_active": ("calls", "Calls that run on workers."),
    "policy_connected": ("bool", "Whether the news from policy arrive."),
    "engine_hosts_connected": ("hosts", "Engine hosts whose news arrive."),
}
