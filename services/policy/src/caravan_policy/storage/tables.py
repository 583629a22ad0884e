"""The tables, as queries see them. What makes and changes them is `migrations.py`.

Moments are microseconds since 1970 in UTC, and hashes are hex, so that every database stores and
orders them alike.
"""

from datetime import UTC, datetime, timedelta
from typing import overload

from sqlalchemy import BigInteger, Column, Integer, MetaData, String, Table

metadata = MetaData()

tenants = Table(
    "tenants",
    metadata,
    Column("name", String, primary_key=True),
    Column("create_time_us", BigInteger, nullable=False),
)

roles = Table(
    "roles",
    metadata,
    Column("name", String, primary_key=True),
    Column("priority_cap", Integer, nullable=False),
)

role_grants = Table(
    "role_grants",
    metadata,
    Column("role", String, primary_key=True),
    Column("permission", String, primary_key=True),
    Column("resource", String, primary_key=True),
)

principals = Table(
    "principals",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("create_time_us", BigInteger, nullable=False),
)

principal_roles = Table(
    "principal_roles",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("principal", String, primary_key=True),
    Column("role", String, primary_key=True),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("principal", String, nullable=False),
    Column("sha256", String, nullable=False),
    Column("description", String, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
    Column("expire_time_us", BigInteger),
    Column("revoke_time_us", BigInteger),
)

# One row, id 1.
policy_state = Table(
    "policy_state",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("admin_file_key_id", String),
)

remembered_results = Table(
    "remembered_results",
    metadata,
    Column("operation", String, primary_key=True),
    Column("idempotency_key", String, primary_key=True),
    Column("content_sha256", String, nullable=False),
    Column("resource", String, nullable=False),
    Column("create_time_us", BigInteger, nullable=False),
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@overload
def to_us(moment: datetime) -> int: ...
@overload
def to_us(moment: None) -> None: ...
def to_us(moment: datetime | None) -> int | None:
    """A moment as it is stored; exact, which floats are not."""
    return None if moment is None else (moment - _EPOCH) // _MICROSECOND


@overload
def from_us(stored: int) -> datetime: ...
@overload
def from_us(stored: None) -> None: ...
def from_us(stored: int | None) -> datetime | None:
    """A stored moment."""
    return None if stored is None else _EPOCH + stored * _MICROSECOND
