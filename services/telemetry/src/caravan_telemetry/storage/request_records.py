"""Request records in the database."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Integer,
    MetaData,
    Table,
    Text,
    delete,
    insert,
    select,
)

from caravan_telemetry.domain.request_record import RequestRecord, TokenCounts
from caravan_telemetry.storage.database import Database

_TABLE = Table(
    "request_records",
    MetaData(),
    Column("id", Text, primary_key=True),
    Column("request_id", Text),
    Column("tenant", Text),
    Column("principal", Text),
    Column("key_id", Text),
    Column("method", Text),
    Column("model", Text),
    Column("model_digest", Text),
    Column("status_code", Integer),
    Column("error_reason", Text),
    Column("finish_reasons", Text),  # JSON list
    Column("input_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("start_time_ms", BigInteger),
    Column("duration_ms", Double),
    Column("time_to_first_token_ms", Double),
    Column("queue_ms", Double),
    Column("priority", BigInteger),
    Column("labels", Text),  # JSON object
    Column("gateway_id", Text),
    Column("failover_count", BigInteger),
    Column("is_provisional", Integer),
    Column("received_time_ms", BigInteger),
)
_FIELDS = tuple(field.name for field in fields(RequestRecord))


class SqlRequestStore:
    """The port `RequestStore` over SQL. Used by one thread at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def provisional(self, ids: Collection[str]) -> Mapping[str, TokenCounts]:
        """See the port."""
        counts = (_TABLE.c.input_tokens, _TABLE.c.cached_tokens, _TABLE.c.output_tokens)
        wanted = select(_TABLE.c.id, *counts).where(
            _TABLE.c.id.in_(ids), _TABLE.c.is_provisional == 1
        )
        with self._database.transaction() as connection:
            rows = connection.execute(wanted).all()
        return {record_id: TokenCounts(*tokens) for record_id, *tokens in rows}

    def add(
        self,
        records: Sequence[RequestRecord],
        received_time_ms: int,
        *,
        replaced: Collection[str] = (),
    ) -> Collection[str]:
        """See the port. The transaction holds the right to write from its start."""
        if not records:
            return ()
        by_id = {record.id: record for record in records}
        with self._database.transaction() as connection:
            if replaced:
                connection.execute(delete(_TABLE).where(_TABLE.c.id.in_(replaced)))
            known = connection.scalars(select(_TABLE.c.id).where(_TABLE.c.id.in_(by_id)))
            for record_id in known.all():
                del by_id[record_id]
            if by_id:
                rows = [_row(record, received_time_ms) for record in by_id.values()]
                connection.execute(insert(_TABLE), rows)
        return by_id.keys()

    def remove_received_before(self, time_ms: int, *, limit: int) -> int:
        """See the port."""
        oldest = (
            select(_TABLE.c.id)
            .where(_TABLE.c.received_time_ms < time_ms)
            .order_by(_TABLE.c.received_time_ms)
            .limit(limit)
        )
        with self._database.transaction() as connection:
            removed = connection.execute(delete(_TABLE).where(_TABLE.c.id.in_(oldest)))
        return removed.rowcount


def _row(record: RequestRecord, received_time_ms: int) -> dict[str, object]:
    row = {name: getattr(record, name) for name in _FIELDS}
    row["is_provisional"] = int(record.is_provisional)
    row["finish_reasons"] = json.dumps(record.finish_reasons)
    row["labels"] = json.dumps(dict(record.labels), ensure_ascii=False)
    row["received_time_ms"] = received_time_ms
    return row
