"""The schema, as an ordered list of steps that is only ever appended to.

A step is frozen once released: it is plain SQL that SQLite and PostgreSQL both understand, and it
does not use `tables.py`, which moves on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from caravan_policy.domain.errors import StoreUnusableError


@dataclass(frozen=True, slots=True)
class Migration:
    """Leads from schema `version - 1` to `version`."""

    version: int
    statements: tuple[str, ...]


MIGRATIONS = (
    Migration(
        1,
        (
            "CREATE TABLE tenants (name TEXT PRIMARY KEY, create_time_us BIGINT NOT NULL)",
            "CREATE TABLE roles (name TEXT PRIMARY KEY, priority_cap INTEGER NOT NULL)",
            """CREATE TABLE role_grants (
                role TEXT NOT NULL REFERENCES roles (name),
                permission TEXT NOT NULL,
                resource TEXT NOT NULL,
                PRIMARY KEY (role, permission, resource)
            )""",
            """CREATE TABLE principals (
                tenant TEXT NOT NULL REFERENCES tenants (name),
                name TEXT NOT NULL,
                create_time_us BIGINT NOT NULL,
                PRIMARY KEY (tenant, name)
            )""",
            """CREATE TABLE principal_roles (
                tenant TEXT NOT NULL,
                principal TEXT NOT NULL,
                role TEXT NOT NULL REFERENCES roles (name),
                PRIMARY KEY (tenant, principal, role),
                FOREIGN KEY (tenant, principal) REFERENCES principals (tenant, name)
            )""",
            """CREATE TABLE api_keys (
                id TEXT PRIMARY KEY,
                tenant TEXT NOT NULL,
                principal TEXT NOT NULL,
                sha256 TEXT NOT NULL,
                description TEXT NOT NULL,
                create_time_us BIGINT NOT NULL,
                expire_time_us BIGINT,
                revoke_time_us BIGINT,
                FOREIGN KEY (tenant, principal) REFERENCES principals (tenant, name)
            )""",
            "CREATE INDEX api_keys_newest ON api_keys (create_time_us, id)",
            "CREATE INDEX api_keys_of_principal ON api_keys (tenant, principal)",
            """CREATE TABLE policy_state (
                id INTEGER PRIMARY KEY CHECK (id = 1),
                version BIGINT NOT NULL,
                admin_file_key_id TEXT REFERENCES api_keys (id)
            )""",
            "INSERT INTO policy_state (id, version) VALUES (1, 0)",
            """CREATE TABLE remembered_results (
                operation TEXT NOT NULL,
                idempotency_key TEXT NOT NULL,
                content_sha256 TEXT NOT NULL,
                resource TEXT NOT NULL,
                create_time_us BIGINT NOT NULL,
                PRIMARY KEY (operation, idempotency_key)
            )""",
            "CREATE INDEX remembered_results_oldest ON remembered_results (create_time_us)",
        ),
    ),
)

_CREATE_VERSION = "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)"


def migrate(connection: Connection, migrations: Sequence[Migration] = MIGRATIONS) -> int:
    """Brings the schema to the newest version, all or nothing, in the caller's transaction.

    Returns:
        The version that was found; 0 for a new database.

    Raises:
        StoreUnusableError: the database is of a newer version than this program knows.
    """
    connection.exec_driver_sql(_CREATE_VERSION)
    found = connection.exec_driver_sql("SELECT version FROM schema_version").scalar()
    newest = migrations[-1].version
    if found is None:
        connection.exec_driver_sql("INSERT INTO schema_version (version) VALUES (0)")
        found = 0
    if found > newest:
        raise StoreUnusableError(
            f"The policy database has schema version {found}; this version of Caravan knows up to "
            f"{newest}. Start the newer version again, or restore a backup from before it."
        )
    for migration in migrations:
        if migration.version > found:
            for statement in migration.statements:
                connection.exec_driver_sql(statement)
    connection.exec_driver_sql(f"UPDATE schema_version SET version = {newest:d}")  # noqa: S608 (an int)
    return int(found)
