import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import pytest

from caravan_obskit.worker_numbers import (
    Measure,
    Outcome,
    WorkerCounters,
    WorkerGauges,
    WorkerNumbers,
)
from caravan_telemetry.domain.errors import StoreUnavailableError
from caravan_telemetry.domain.request_record import RequestRecord, TokenCounts
from caravan_telemetry.domain.span_record import SpanKind, SpanRecord, SpanStatus

RECORD = RequestRecord(
    id="record-1",
    request_id="request-1",
    tenant="default",
    principal="alice",
    key_id="key-1",
    method="caravan.inference.v1.InferenceService/StreamGenerate",
    model="bundled",
    model_digest="sha256:0",
    status_code=0,
    error_reason="",
    finish_reasons=("length",),
    input_tokens=10,
    cached_tokens=4,
    output_tokens=32,
    start_time_ms=1_700_000_000_000,
    duration_ms=125.5,
    time_to_first_token_ms=20.25,
    queue_ms=0.5,
    priority=10,
    labels={"team": "search"},
    gateway_id="gateway-1",
    failover_count=2,
)


class MemoryRequestStore:
    """The port over a dictionary; `is_full` makes it refuse like a full disk."""

    def __init__(self) -> None:
        self.records: dict[str, tuple[RequestRecord, int]] = {}
        self.is_full = False

    def provisional(self, ids: Collection[str]) -> Mapping[str, TokenCounts]:
        found = (record for record, _ in self.records.values() if record.id in ids)
        return {
            each.id: TokenCounts(each.input_tokens, each.cached_tokens, each.output_tokens)
            for each in found
            if each.is_provisional
        }

    def add(
        self,
        records: Sequence[RequestRecord],
        received_time_ms: int,
        *,
        replaced: Collection[str] = (),
    ) -> Collection[str]:
        if self.is_full:
            raise StoreUnavailableError
        for record_id in replaced:
            del self.records[record_id]
        new = {record.id: record for record in records if record.id not in self.records}
        self.records |= {key: (record, received_time_ms) for key, record in new.items()}
        return new.keys()

    def remove_received_before(self, time_ms: int, *, limit: int) -> int:
        by_age = sorted(self.records.items(), key=lambda item: item[1][1])
        old = [key for key, (_, received_ms) in by_age if received_ms < time_ms][:limit]
        for key in old:
            del self.records[key]
        return len(old)


class MemorySpanStore:
    """The port over a dictionary; `is_full` makes it refuse like a full disk."""

    def __init__(self) -> None:
        self.spans: dict[tuple[str, str], tuple[SpanRecord, int]] = {}
        self.is_full = False

    def add(self, spans: Sequence[SpanRecord], received_time_ms: int) -> int:
        if self.is_full:
            raise StoreUnavailableError
        before = len(self.spans)
        for span in spans:
            self.spans.setdefault((span.trace_id, span.span_id), (span, received_time_ms))
        return len(self.spans) - before

    def count(self) -> int:
        return len(self.spans)

    def of_request(
        self, request_id: str, *, max_traces: int, max_spans: int
    ) -> Sequence[SpanRecord]:
        spans = sorted((span for span, _ in self.spans.values()), key=lambda span: span.start_ns)
        serving = [s.trace_id for s in spans if s.request_id == request_id != ""]
        newest = list(dict.fromkeys(reversed(serving)))[:max_traces]
        return [span for span in spans if span.trace_id in newest][:max_spans]

    def remove_received_before(self, time_ms: int, *, limit: int) -> int:
        return self._remove([key for key, (_, ms) in self._by_age() if ms < time_ms][:limit])

    def remove_oldest(self, count: int) -> int:
        return self._remove([key for key, _ in self._by_age()][:count])

    def _by_age(self):
        return sorted(self.spans.items(), key=lambda item: item[1][1])

    def _remove(self, keys) -> int:
        for key in keys:
            del self.spans[key]
        return len(keys)


def _span_id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _span(name: str, *, parent: str = "", **changes: object) -> SpanRecord:
    """A span whose id comes from its name."""
    span = SpanRecord(
        trace_id="f" * 32,
        span_id=_span_id(name),
        parent_span_id=_span_id(parent) if parent else "",
        request_id="",
        service="gateway",
        name=name,
        kind=SpanKind.INTERNAL,
        start_ns=1,
        duration_ns=1,
        status=SpanStatus.UNSET,
        attributes={},
        events=(),
    )
    return replace(span, **changes)


class CountingMeter:
    """The port over plain numbers."""

    def __init__(self) -> None:
        self.stored_ids: list[str] = []
        self.replacements: list[tuple[str, int, int]] = []
        self.repeated_count = 0
        self.removed_count = 0

    def stored(self, record: RequestRecord) -> None:
        self.stored_ids.append(record.id)

    def replaced(self, record: RequestRecord, before: TokenCounts) -> None:
        self.replacements.append((record.id, before.output, record.output_tokens))

    def repeated(self, count: int) -> None:
        self.repeated_count += count

    def removed(self, count: int) -> None:
        self.removed_count += count


def _record(record_id: str = "record-1", **changes: object) -> RequestRecord:
    return replace(RECORD, id=record_id, **changes)


def _worker(
    worker_id: str = "w1",
    model: str = "bundled",
    *,
    output_tokens: int = 0,
    finished: int = 0,
    running: int = 0,
    cells: int = 100,
    device_bytes: dict[str, int] | None = None,
) -> WorkerNumbers:
    counters = WorkerCounters()
    return WorkerNumbers(
        worker_id=worker_id,
        model=model,
        replica_index=0,
        counters=replace(
            counters,
            output_tokens=output_tokens,
            outcomes={**counters.outcomes, Outcome.STOP: finished},
            distributions={
                **counters.distributions,
                Measure.REQUEST_LATENCY_MS: replace(
                    counters.distributions[Measure.REQUEST_LATENCY_MS], total=float(finished)
                ),
            },
        ),
        gauges=WorkerGauges(running_count=running, cell_count=cells),
        device_bytes=device_bytes or {},
    )


@pytest.fixture
def make_record() -> Callable[..., RequestRecord]:
    return _record


@pytest.fixture
def make_worker() -> Callable[..., WorkerNumbers]:
    return _worker


@pytest.fixture
def memory_store() -> MemoryRequestStore:
    return MemoryRequestStore()


@pytest.fixture
def meter() -> CountingMeter:
    return CountingMeter()


@pytest.fixture
def make_span() -> Callable[..., SpanRecord]:
    return _span


@pytest.fixture
def span_store() -> MemorySpanStore:
    return MemorySpanStore()
