"""From rows to values, and the queries that more than one adapter needs."""

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, Select, select, tuple_

from caravan_policy.domain.api_keys import ApiKey
from caravan_policy.domain.principals import Grant, Principal, PrincipalRef, Role
from caravan_policy.storage.tables import (
    api_keys,
    from_us,
    principal_roles,
    principals,
    role_grants,
    roles,
)

AnyRow = Row[Any]


def key_of(row: AnyRow) -> ApiKey:
    """A key, of a row with the columns of `api_keys`."""
    return ApiKey(
        id=row.id,
        principal=PrincipalRef(row.tenant, row.principal),
        description=row.description,
        create_time=from_us(row.create_time_us),
        expire_time=from_us(row.expire_time_us),
        revoke_time=from_us(row.revoke_time_us),
    )


def select_keys() -> Select[Any]:
    """All that is public of keys."""
    return select(*(column for column in api_keys.columns if column.name != "sha256"))


def principals_of(connection: Connection, query: Select[Any]) -> tuple[Principal, ...]:
    """The principals that `query` over `principals` finds, in its order, with their roles."""
    found = connection.execute(query).all()
    if not found:
        return ()
    held = _roles_held(connection, found)
    return tuple(_principal(row, held.get((row.tenant, row.name), [])) for row in found)


def _roles_held(
    connection: Connection, found: Sequence[AnyRow]
) -> dict[tuple[str, str], list[tuple[str, int]]]:
    """Names and caps of the roles of each of the principals that were found."""
    held: dict[tuple[str, str], list[tuple[str, int]]] = {}
    refs = [(row.tenant, row.name) for row in found]
    query = (
        select(principal_roles, roles.c.priority_cap)
        .join(roles, roles.c.name == principal_roles.c.role)
        .where(tuple_(principal_roles.c.tenant, principal_roles.c.principal).in_(refs))
    )
    for row in connection.execute(query):
        held.setdefault((row.tenant, row.principal), []).append((row.role, row.priority_cap))
    return held


def _principal(row: AnyRow, held: Sequence[tuple[str, int]]) -> Principal:
    return Principal(
        ref=PrincipalRef(row.tenant, row.name),
        roles=tuple(sorted(name for name, _ in held)),
        priority_cap=max((cap for _, cap in held), default=0),
        create_time=from_us(row.create_time_us),
    )


def find_principal(connection: Connection, ref: PrincipalRef) -> Principal | None:
    """One principal, or None."""
    query = select(principals).where(
        principals.c.tenant == ref.tenant, principals.c.name == ref.name
    )
    found = principals_of(connection, query)
    return found[0] if found else None


def roles_of(connection: Connection, query: Select[Any]) -> tuple[Role, ...]:
    """The roles that `query` over `roles` finds, in its order, with their grants."""
    found = connection.execute(query).all()
    grants = _grants_of(connection, [row.name for row in found])
    return tuple(Role(row.name, grants.get(row.name, ()), row.priority_cap) for row in found)


def _grants_of(connection: Connection, names: Collection[str]) -> dict[str, tuple[Grant, ...]]:
    query = select(role_grants).where(role_grants.c.role.in_(names)).order_by(role_grants.c.role)
    return {
        role: tuple(sorted(Grant(row.permission, row.resource) for row in rows))
        for role, rows in groupby(connection.execute(query), key=lambda row: row.role)
    }
