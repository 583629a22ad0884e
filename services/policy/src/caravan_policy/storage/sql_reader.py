"""Reads the policy from the database, for decisions and for administrators."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Engine, Select, and_, or_, select

from caravan_policy.domain.api_keys import ApiKey, StoredCredential
from caravan_policy.domain.policy_set import PolicySet
from caravan_policy.domain.ports import KeyCursor
from caravan_policy.domain.principals import Principal, PrincipalRef, Role
from caravan_policy.storage.database import reading
from caravan_policy.storage.sql_rows import (
    AnyRow,
    find_principal,
    key_of,
    principals_of,
    roles_of,
    select_keys,
)
from caravan_policy.storage.tables import (
    api_keys,
    from_us,
    policy_state,
    principal_roles,
    principals,
    roles,
    to_us,
)

_P = principals.c
_K = api_keys.c

# One statement, so that key, roles and version are of one moment.
_CREDENTIAL = (
    select(
        api_keys,
        _P.create_time_us.label("principal_create_time_us"),
        roles.c.name.label("role"),
        roles.c.priority_cap,
        select(policy_state.c.version).scalar_subquery().label("version"),
    )
    .join(principals, and_(_P.tenant == _K.tenant, _P.name == _K.principal))
    .outerjoin(
        principal_roles,
        and_(
            principal_roles.c.tenant == _K.tenant,
            principal_roles.c.principal == _K.principal,
        ),
    )
    .outerjoin(roles, roles.c.name == principal_roles.c.role)
)


class SqlReader:
    """Implements CredentialReader and DirectoryReader. Blocks; thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find_credential(self, key_id: str) -> StoredCredential | None:
        """See CredentialReader."""
        with reading(self._engine) as connection:
            rows = connection.execute(_CREDENTIAL.where(_K.id == key_id)).all()
        return _credential_of(rows) if rows else None

    def read_policy_set(self) -> PolicySet:
        """The whole policy as of one moment."""
        with reading(self._engine) as connection:
            return read_policy_set(connection)

    def find_principal(self, ref: PrincipalRef) -> Principal | None:
        """See DirectoryReader."""
        with reading(self._engine) as connection:
            return find_principal(connection, ref)

    def list_principals(
        self, *, tenant: str | None, after: PrincipalRef | None, limit: int
    ) -> Sequence[Principal]:
        """See DirectoryReader."""
        query = select(principals).order_by(_P.tenant, _P.name).limit(limit)
        if tenant is not None:
            query = query.where(_P.tenant == tenant)
        if after is not None:
            same_tenant = and_(_P.tenant == after.tenant, _P.name > after.name)
            query = query.where(or_(_P.tenant > after.tenant, same_tenant))
        with reading(self._engine) as connection:
            return principals_of(connection, query)

    def list_keys(
        self, *, tenant: str | None, principal: str | None, after: KeyCursor | None, limit: int
    ) -> Sequence[ApiKey]:
        """See DirectoryReader."""
        query = select_keys().order_by(_K.create_time_us.desc(), _K.id.desc()).limit(limit)
        if tenant is not None:
            query = query.where(_K.tenant == tenant)
        if principal is not None:
            query = query.where(_K.principal == principal)
        if after is not None:
            query = _older_than(query, after)
        with reading(self._engine) as connection:
            return tuple(key_of(row) for row in connection.execute(query))

    def list_roles(self, *, after: str | None, limit: int) -> Sequence[Role]:
        """See DirectoryReader."""
        query = select(roles).order_by(roles.c.name).limit(limit)
        if after is not None:
            query = query.where(roles.c.name > after)
        with reading(self._engine) as connection:
            return roles_of(connection, query)


def read_policy_set(connection: Connection) -> PolicySet:
    """The whole policy as the connection's transaction sees it."""
    memberships: dict[PrincipalRef, tuple[str, ...]] = {}
    for row in connection.execute(select(principal_roles)):
        ref = PrincipalRef(row.tenant, row.principal)
        memberships[ref] = (*memberships.get(ref, ()), row.role)
    version: int = connection.execute(select(policy_state.c.version)).scalar_one()
    return PolicySet(
        version=version,
        roles=roles_of(connection, select(roles).order_by(roles.c.name)),
        memberships=memberships,
    )


def _older_than(query: Select[Any], cursor: KeyCursor) -> Select[Any]:
    created_us = to_us(cursor.create_time)
    same_moment = and_(_K.create_time_us == created_us, _K.id < cursor.key_id)
    return query.where(or_(_K.create_time_us < created_us, same_moment))


def _credential_of(rows: Sequence[AnyRow]) -> StoredCredential:
    first = rows[0]
    key = key_of(first)
    held = [row for row in rows if row.role is not None]
    return StoredCredential(
        key=key,
        sha256=first.sha256,
        principal=Principal(
            ref=key.principal,
            roles=tuple(sorted(row.role for row in held)),
            priority_cap=max((row.priority_cap for row in held), default=0),
            create_time=from_us(first.principal_create_time_us),
        ),
        policy_version=first.version,
    )
