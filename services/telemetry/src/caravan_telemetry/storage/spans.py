"""Spans in the database."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    MetaData,
    Select,
    Table,
    Text,
    delete,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.sqlite import insert

from caravan_telemetry.domain.span_record import SpanKind, SpanMoment, SpanRecord, SpanStatus
from caravan_telemetry.storage.database import Database

_TABLE = Table(
    "spans",
    MetaData(),
    Column("trace_id", Text, primary_key=True),
    Column("span_id", Text, primary_key=True),
    Column("parent_span_id", Text),
    Column("request_id", Text),
    Column("service", Text),
    Column("name", Text),
    Column("kind", Text),
    Column("start_ns", BigInteger),
    Column("duration_ns", BigInteger),
    Column("status", Text),
    Column("attributes", Text),  # JSON object
    Column("events", Text),  # JSON list of [name, nanoseconds]
    Column("received_time_ms", BigInteger),
)
_COLUMNS = _TABLE.c
_ROWID: ColumnElement[int] = literal_column("rowid")  # SQLite's own


class SqlSpanStore:
    """The port `SpanStore` over SQL. Used by one thread at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, spans: Sequence[SpanRecord], received_time_ms: int) -> int:
        """See the port."""
        if not spans:
            return 0
        rows = [_row(span, received_time_ms) for span in spans]
        with self._database.transaction() as connection:
            done = connection.execute(insert(_TABLE).on_conflict_do_nothing(), rows)
        return done.rowcount

    def count(self) -> int:
        """See the port."""
        with self._database.transaction() as connection:
            return connection.scalar(select(func.count()).select_from(_TABLE)) or 0

    def of_request(
        self, request_id: str, *, max_traces: int, max_spans: int
    ) -> Sequence[SpanRecord]:
        """See the port."""
        traces = (
            select(_COLUMNS.trace_id)
            # The second condition is that of the index.
            .where(_COLUMNS.request_id == request_id, _COLUMNS.request_id != "")
            .group_by(_COLUMNS.trace_id)
            .order_by(func.max(_COLUMNS.start_ns).desc())
            .limit(max_traces)
        )
        wanted = (
            select(_TABLE)
            .where(_COLUMNS.trace_id.in_(traces))
            .order_by(_COLUMNS.start_ns)
            .limit(max_spans)
        )
        with self._database.transaction() as connection:
            return [_record(row) for row in connection.execute(wanted).mappings()]

    def remove_received_before(self, time_ms: int, *, limit: int) -> int:
        """See the port."""
        old = _COLUMNS.received_time_ms < time_ms
        return self._remove(select(_ROWID).select_from(_TABLE).where(old), limit)

    def remove_oldest(self, count: int) -> int:
        """See the port."""
        return self._remove(select(_ROWID).select_from(_TABLE), count)

    def _remove(self, candidates: Select[int], limit: int) -> int:
        chosen = candidates.order_by(_COLUMNS.received_time_ms).limit(limit)
        with self._database.transaction() as connection:
            removed = connection.execute(delete(_TABLE).where(_ROWID.in_(chosen)))
        return removed.rowcount


def _row(span: SpanRecord, received_time_ms: int) -> dict[str, object]:
    return {
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_span_id": span.parent_span_id,
        "request_id": span.request_id,
        "service": span.service,
        "name": span.name,
        "kind": span.kind,
        "start_ns": span.start_ns,
        "duration_ns": span.duration_ns,
        "status": span.status,
        "attributes": json.dumps(dict(span.attributes), ensure_ascii=False),
        "events": json.dumps([[event.name, event.time_ns] for event in span.events]),
        "received_time_ms": received_time_ms,
    }


def _record(row: Any) -> SpanRecord:  # noqa: ANN401 (a row has no static type)
    return SpanRecord(
        trace_id=row["trace_id"],
        span_id=row["span_id"],
        parent_span_id=row["parent_span_id"],
        request_id=row["request_id"],
        service=row["service"],
        name=row["name"],
        kind=SpanKind(row["kind"]),
        start_ns=row["start_ns"],
        duration_ns=row["duration_ns"],
        status=SpanStatus(row["status"]),
        attributes=json.loads(row["attributes"]),
        events=tuple(SpanMoment(name, time_ns) for name, time_ns in json.loads(row["events"])),
    )
