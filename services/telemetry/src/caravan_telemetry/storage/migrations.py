"""The schema, as an ordered list of steps; a released step is never changed, only followed."""

from collections.abc import Sequence

from sqlalchemy import Connection

from caravan_telemetry.domain.errors import StoreUnusableError

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE request_records (
            id TEXT PRIMARY KEY,
            request_id TEXT NOT NULL,
            tenant TEXT NOT NULL,
            principal TEXT NOT NULL,
            key_id TEXT NOT NULL,
            method TEXT NOT NULL,
            model TEXT NOT NULL,
            model_digest TEXT NOT NULL,
            status_code INTEGER NOT NULL,
            error_reason TEXT NOT NULL,
            finish_reasons TEXT NOT NULL,
            input_tokens BIGINT NOT NULL,
            cached_tokens BIGINT NOT NULL,
            output_tokens BIGINT NOT NULL,
            start_time_ms BIGINT NOT NULL,
            duration_ms DOUBLE PRECISION NOT NULL,
            time_to_first_token_ms DOUBLE PRECISION,
            queue_ms DOUBLE PRECISION NOT NULL,
            priority BIGINT NOT NULL,
            labels TEXT NOT NULL,
            gateway_id TEXT NOT NULL,
            received_time_ms BIGINT NOT NULL
        )""",
        "CREATE INDEX request_records_by_age ON request_records (received_time_ms)",
    ),
    (
        """CREATE TABLE spans (
            trace_id TEXT NOT NULL,
            span_id TEXT NOT NULL,
            parent_span_id TEXT NOT NULL,
            request_id TEXT NOT NULL,
            service TEXT NOT NULL,
            name TEXT NOT NULL,
            kind TEXT NOT NULL,
            start_ns BIGINT NOT NULL,
            duration_ns BIGINT NOT NULL,
            status TEXT NOT NULL,
            attributes TEXT NOT NULL,
            events TEXT NOT NULL,
            received_time_ms BIGINT NOT NULL,
            PRIMARY KEY (trace_id, span_id)
        )""",
        "CREATE INDEX spans_by_request ON spans (request_id) WHERE request_id <> ''",
        "CREATE INDEX spans_by_age ON spans (received_time_ms)",
    ),
    ("ALTER TABLE request_records ADD COLUMN failover_count BIGINT NOT NULL DEFAULT 0",),
    ("ALTER TABLE request_records ADD COLUMN is_provisional INTEGER NOT NULL DEFAULT 0",),
)
"""Step n (from 1) leads from schema version n - 1 to n."""

_CREATE_VERSION = "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)"


def migrate(connection: Connection, migrations: Sequence[Sequence[str]] = MIGRATIONS) -> int:
    """Brings the schema to the newest version, all or nothing, in the caller's transaction.

    Returns:
        The version that was found; 0 for a new database.

    Raises:
        StoreUnusableError: the database is of a newer version than this program knows.
    """
    found = _found_version(connection)
    if found > len(migrations):
        raise StoreUnusableError(
            f"The telemetry database has schema version {found}; this version of Caravan knows "
            f"up to {len(migrations)}. Start the newer version again, or restore a backup from "
            "before it."
        )
    for statements in migrations[found:]:
        for statement in statements:
            connection.exec_driver_sql(statement)
    connection.exec_driver_sql("UPDATE schema_version SET version = ?", (len(migrations),))
    return found


def _found_version(connection: Connection) -> int:
    connection.exec_driver_sql(_CREATE_VERSION)
    version = connection.exec_driver_sql("SELECT version FROM schema_version").scalar()
    if version is None:
        connection.exec_driver_sql("INSERT INTO schema_version (version) VALUES (0)")
        return 0
    return int(version)
