"""The declared instruments of this service; those about workers come from `caravan_obskit`."""

from collections.abc import Callable

import grpc

from caravan_obskit.instruments import Instruments, Label
from caravan_rpckit.observers import CallRecord
from caravan_telemetry.domain.request_record import RequestRecord, TokenCounts

_CODES = {code.value[0]: code.name.lower() for code in grpc.StatusCode}
_INGEST_METHOD = "caravan.telemetry.v1.IngestService/IngestUsage"
_INGEST_BUCKETS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


class UsageMetrics:
    """What became of usage records; the port `UsageMeter`. Used by one thread at a time."""

    def __init__(self, instruments: Instruments, *, model_limit: int) -> None:
        self._records = instruments.counter(
            "caravan_usage_records_total",
            unit="records",
            description="Usage records stored, by the gRPC status of their call.",
            labels=(Label("status", values=tuple(_CODES.values())),),
        )
        self._duplicates = instruments.counter(
            "caravan_usage_duplicates_total",
            unit="records",
            description="Usage records that came again and were not stored again.",
        )
        self._replaced = instruments.counter(
            "caravan_usage_records_replaced_total",
            unit="records",
            description="Provisional usage records, made by engines in the place of gateways, that "
            "better ones replaced.",
        )
        self._removed = instruments.counter(
            "caravan_usage_records_removed_total",
            unit="records",
            description="Usage records removed because they were over their age.",
        )
        self._tokens = instruments.counter(
            "caravan_usage_tokens_total",
            unit="tokens",
            description="Tokens in stored usage records; `cached` ones are a part of `input`.",
            labels=(
                Label("model", most=model_limit),
                Label("kind", values=("input", "cached", "output")),
            ),
        )
        self._records.of(status="ok")

    def stored(self, record: RequestRecord) -> None:
        """See the port."""
        self._records.of(status=_CODES[record.status_code]).inc()
        if record.model:
            self._tokens.of(model=record.model, kind="input").inc(record.input_tokens)
            self._tokens.of(model=record.model, kind="cached").inc(record.cached_tokens)
            self._tokens.of(model=record.model, kind="output").inc(record.output_tokens)

    def replaced(self, record: RequestRecord, before: TokenCounts) -> None:
        """See the port. The record was counted before, with its status then."""
        self._replaced.of().inc()
        if record.model:
            after = TokenCounts(record.input_tokens, record.cached_tokens, record.output_tokens)
            for kind in ("input", "cached", "output"):
                added = getattr(after, kind) - getattr(before, kind)
                self._tokens.of(model=record.model, kind=kind).inc(max(0, added))

    def repeated(self, count: int) -> None:
        """See the port."""
        self._duplicates.of().inc(count)

    def removed(self, count: int) -> None:
        """See the port."""
        self._removed.of().inc(count)


class IngestMetrics:
    """How long batches of usage records took, refused ones included; a `CallObserver`."""

    def __init__(self, instruments: Instruments) -> None:
        self._seconds = instruments.histogram(
            "caravan_usage_ingest_seconds",
            unit="seconds",
            description="From the arrival of a batch of usage records to its answer.",
            labels=(Label("code", values=tuple(_CODES.values())),),
            buckets=_INGEST_BUCKETS_S,
        )
        self._seconds.of(code="ok")

    def call_started(self, method: str) -> None:
        """Nothing is counted before the end."""

    def call_ended(self, record: CallRecord) -> None:
        """Counts calls of `IngestUsage`."""
        if record.method == _INGEST_METHOD:
            self._seconds.of(code=record.code.name.lower()).observe(record.duration_s)


class SpanMetrics:
    """What became of spans; the port `SpanMeter`."""

    def __init__(self, instruments: Instruments) -> None:
        self._stored = instruments.counter(
            "caravan_spans_stored_total", unit="spans", description="Spans stored."
        )
        self._rejected = instruments.counter(
            "caravan_spans_rejected_total",
            unit="spans",
            description="Spans that could not be kept: without valid ids or times, or too many.",
        )
        self._removed = instruments.counter(
            "caravan_spans_removed_total",
            unit="spans",
            description="Spans removed because of their age, or because there were too many.",
            labels=(Label("cause", values=("age", "count")),),
        )
        self._forward_failures = instruments.counter(
            "caravan_spans_forward_failures_total",
            unit="batches",
            description="Batches of spans that another collector did not take at once.",
        )
        self._forward_lost = instruments.counter(
            "caravan_spans_forward_lost_total",
            unit="batches",
            description="Batches of spans that another collector never got: queue_full, refused, "
            "shutdown.",
            labels=(Label("cause", values=("queue_full", "refused", "shutdown")),),
        )

    def stored(self, count: int) -> None:
        """See the port."""
        self._stored.of().inc(count)

    def removed(self, count: int, cause: str) -> None:
        """See the port."""
        self._removed.of(cause=cause).inc(count)

    def rejected(self, count: int) -> None:
        """So many cannot be kept."""
        self._rejected.of().inc(count)

    def forward_failed(self) -> None:
        """A batch did not arrive; it may yet."""
        self._forward_failures.of().inc()

    def forward_lost(self, count: int, cause: str) -> None:
        """So many batches will never arrive."""
        self._forward_lost.of(cause=cause).inc(count)


def declare_gauges(
    instruments: Instruments,
    *,
    live_hosts: Callable[[], float],
    queued_batches: Callable[[], float],
    database_bytes: Callable[[], float],
) -> None:
    """Declares what is read at each scrape."""
    instruments.gauge(
        "caravan_telemetry_live_hosts",
        unit="hosts",
        description="Engine hosts that reported lately.",
    ).of().set_function(live_hosts)
    instruments.gauge(
        "caravan_telemetry_queued_batches",
        unit="batches",
        description="Batches of usage records that are being stored or wait for it.",
    ).of().set_function(queued_batches)
    instruments.gauge(
        "caravan_telemetry_database_bytes",
        unit="bytes",
        description="Size of the database file, without its journal.",
    ).of().set_function(database_bytes)
