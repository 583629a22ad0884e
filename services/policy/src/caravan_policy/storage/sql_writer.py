"""Changes the policy in the database, one transaction after another."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import Connection, Engine, and_, delete, func, insert, or_, select, update

from caravan_policy.domain.api_keys import ApiKey
from caravan_policy.domain.permissions import ANY, Permission
from caravan_policy.domain.policy_set import PolicySet
from caravan_policy.domain.ports import RememberedResult, WriteTransaction
from caravan_policy.domain.principals import Principal, PrincipalRef, Role
from caravan_policy.storage.database import writing
from caravan_policy.storage.sql_reader import read_policy_set
from caravan_policy.storage.sql_rows import find_principal, key_of, roles_of, select_keys
from caravan_policy.storage.tables import (
    api_keys,
    policy_state,
    principal_roles,
    principals,
    remembered_results,
    role_grants,
    roles,
    tenants,
    to_us,
)


class SqlWriter:
    """Implements PolicyWriter. Blocks; thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def transaction(self) -> Iterator[WriteTransaction]:
        """See PolicyWriter."""
        with writing(self._engine) as connection:
            # SQLite has locked already; others let writers queue up at this row.
            connection.execute(select(policy_state.c.version).with_for_update())
            yield _SqlTransaction(connection)


class _SqlTransaction:
    """See WriteTransaction, whose methods these are."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def has_tenant(self, name: str) -> bool:
        query = select(tenants.c.name).where(tenants.c.name == name)
        return self._connection.execute(query).first() is not None

    def insert_tenant(self, name: str, create_time: datetime) -> None:
        self._connection.execute(
            insert(tenants).values(name=name, create_time_us=to_us(create_time))
        )

    def find_roles(self, names: Collection[str]) -> Sequence[Role]:
        query = select(roles).where(roles.c.name.in_(names)).order_by(roles.c.name)
        return roles_of(self._connection, query)

    def insert_role(self, role: Role) -> None:
        self._connection.execute(
            insert(roles).values(name=role.name, priority_cap=role.priority_cap)
        )
        for grant in role.grants:
            self._connection.execute(
                insert(role_grants).values(
                    role=role.name, permission=str(grant.permission), resource=grant.resource
                )
            )

    def find_principal(self, ref: PrincipalRef) -> Principal | None:
        return find_principal(self._connection, ref)

    def insert_principal(
        self, ref: PrincipalRef, roles: Collection[str], create_time: datetime
    ) -> None:
        self._connection.execute(
            insert(principals).values(
                tenant=ref.tenant, name=ref.name, create_time_us=to_us(create_time)
            )
        )
        for role in roles:
            self._connection.execute(
                insert(principal_roles).values(tenant=ref.tenant, principal=ref.name, role=role)
            )

    def find_key(self, key_id: str) -> ApiKey | None:
        row = self._connection.execute(select_keys().where(api_keys.c.id == key_id)).first()
        return None if row is None else key_of(row)

    def insert_key(self, key: ApiKey, sha256: str) -> None:
        self._connection.execute(
            insert(api_keys).values(
                id=key.id,
                tenant=key.principal.tenant,
                principal=key.principal.name,
                sha256=sha256,
                description=key.description,
                create_time_us=to_us(key.create_time),
                expire_time_us=to_us(key.expire_time),
                revoke_time_us=to_us(key.revoke_time),
            )
        )

    def revoke_key(self, key_id: str, revoke_time: datetime) -> None:
        self._connection.execute(
            update(api_keys)
            .where(api_keys.c.id == key_id, api_keys.c.revoke_time_us.is_(None))
            .values(revoke_time_us=to_us(revoke_time))
        )

    def count_admin_keys(self, tenant: str, now: datetime) -> int:
        keys = api_keys.c
        administrators = (
            select(principal_roles.c.principal)
            .join(role_grants, role_grants.c.role == principal_roles.c.role)
            .where(
                principal_roles.c.tenant == tenant,
                role_grants.c.permission.in_((ANY, str(Permission.POLICY))),
                role_grants.c.resource == ANY,
            )
        )
        works = and_(
            keys.revoke_time_us.is_(None),
            or_(keys.expire_time_us.is_(None), keys.expire_time_us > to_us(now)),
        )
        query = (
            select(func.count())
            .select_from(api_keys)
            .where(keys.tenant == tenant, works, keys.principal.in_(administrators))
        )
        return int(self._connection.execute(query).scalar_one())

    def admin_file_key_id(self) -> str | None:
        key_id: str | None = self._connection.execute(
            select(policy_state.c.admin_file_key_id)
        ).scalar_one()
        return key_id

    def set_admin_file_key_id(self, key_id: str) -> None:
        self._connection.execute(update(policy_state).values(admin_file_key_id=key_id))

    def find_result(
        self, operation: str, idempotency_key: str, *, since: datetime
    ) -> RememberedResult | None:
        results = remembered_results.c
        row = self._connection.execute(
            select(remembered_results).where(
                results.operation == operation,
                results.idempotency_key == idempotency_key,
                results.create_time_us >= to_us(since),
            )
        ).first()
        return None if row is None else RememberedResult(row.content_sha256, row.resource)

    def remember_result(
        self, operation: str, idempotency_key: str, result: RememberedResult, now: datetime
    ) -> None:
        results = remembered_results.c
        self._connection.execute(
            delete(remembered_results).where(
                results.operation == operation, results.idempotency_key == idempotency_key
            )
        )
        self._connection.execute(
            insert(remembered_results).values(
                operation=operation,
                idempotency_key=idempotency_key,
                content_sha256=result.content_sha256,
                resource=result.resource,
                create_time_us=to_us(now),
            )
        )

    def forget_results(self, *, before: datetime) -> None:
        self._connection.execute(
            delete(remembered_results).where(remembered_results.c.create_time_us < to_us(before))
        )

    def advance(self) -> PolicySet:
        self._connection.execute(update(policy_state).values(version=policy_state.c.version + 1))
        return read_policy_set(self._connection)
