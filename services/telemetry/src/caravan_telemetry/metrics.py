"""The declared instruments of this service; those about workers come from `caravan_obskit`."""

from collections.abc import Callable

import grpc
from prometheus_client import CollectorRegistry, Counter, Gauge

from caravan_telemetry.domain.label_cap import LabelCap
from caravan_telemetry.domain.request_record import RequestRecord

_STATUSES = {code.value[0]: code.name.lower() for code in grpc.StatusCode}


class UsageMetrics:
    """What became of usage records; the port `UsageMeter`."""

    def __init__(self, registry: CollectorRegistry, *, model_limit: int) -> None:
        self._models = LabelCap(model_limit)
        self._records = Counter(
            "caravan_usage_records_total",
            "Usage records stored, by the gRPC status of their call.",
            ["status"],
            registry=registry,
        )
        self._duplicates = Counter(
            "caravan_usage_duplicates_total",
            "Usage records that came again and were not stored again.",
            registry=registry,
        )
        self._removed = Counter(
            "caravan_usage_records_removed_total",
            "Usage records removed because they were over their age.",
            registry=registry,
        )
        self._tokens = Counter(
            "caravan_usage_tokens_total",
            "Tokens in stored usage records; cached ones are a part of the input.",
            ["model", "kind"],
            registry=registry,
        )
        self._records.labels("ok")

    def stored(self, record: RequestRecord) -> None:
        """See the port."""
        self._records.labels(_STATUSES[record.status_code]).inc()
        if not record.model:
            return
        model = self._models.label(record.model)
        self._tokens.labels(model, "input").inc(record.input_tokens)
        self._tokens.labels(model, "cached").inc(record.cached_tokens)
        self._tokens.labels(model, "output").inc(record.output_tokens)

    def repeated(self, count: int) -> None:
        """See the port."""
        self._duplicates.inc(count)

    def removed(self, count: int) -> None:
        """See the port."""
        self._removed.inc(count)


def declare_gauges(
    registry: CollectorRegistry,
    *,
    live_hosts: Callable[[], float],
    queued_batches: Callable[[], float],
    database_bytes: Callable[[], float],
) -> None:
    """Declares what is read at each scrape."""
    declared = (
        ("caravan_telemetry_live_hosts", "Engine hosts that spoke lately.", live_hosts),
        (
            "caravan_telemetry_queued_batches",
            "Batches of usage records that wait to be stored.",
            queued_batches,
        ),
        (
            "caravan_telemetry_database_bytes",
            "Size of the database file, without its journal.",
            database_bytes,
        ),
    )
    for name, documentation, read in declared:
        Gauge(name, documentation, registry=registry).set_function(read)
