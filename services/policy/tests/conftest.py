"""A policy store in memory, and everything that unit tests build on it."""

import copy
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from caravan_policy.domain.administrator import Administrator
from caravan_policy.domain.api_keys import ApiKey, KeyState, StoredCredential
from caravan_policy.domain.decision import Question
from caravan_policy.domain.first_start import FirstStart
from caravan_policy.domain.permissions import ANY, covers
from caravan_policy.domain.policy_set import PolicySet
from caravan_policy.domain.ports import KeyCursor, RememberedResult
from caravan_policy.domain.principals import Principal, PrincipalRef, Role, highest_cap
from caravan_testkit.clock import FakeClock


@dataclass
class State:
    version: int = 0
    tenants: dict[str, datetime] = field(default_factory=dict)
    roles: dict[str, Role] = field(default_factory=dict)
    principals: dict[PrincipalRef, tuple[tuple[str, ...], datetime]] = field(default_factory=dict)
    keys: dict[str, tuple[ApiKey, str]] = field(default_factory=dict)
    results: dict[tuple[str, str], tuple[RememberedResult, datetime]] = field(default_factory=dict)
    admin_file_key_id: str | None = None

    def find_principal(self, ref: PrincipalRef) -> Principal | None:
        if ref not in self.principals:
            return None
        names, create_time = self.principals[ref]
        cap = highest_cap(self.roles[name] for name in names)
        return Principal(ref, tuple(sorted(names)), cap, create_time)

    def policy_set(self) -> PolicySet:
        return PolicySet(
            self.version,
            tuple(sorted(self.roles.values(), key=lambda role: role.name)),
            {ref: roles for ref, (roles, _) in self.principals.items() if roles},
        )


class MemoryStore:
    """Reader and writer at once; a transaction works on a copy that replaces the original."""

    def __init__(self) -> None:
        self.state = State()
        self.crashes_at_commit = False
        self._turn = threading.Lock()

    @contextmanager
    def transaction(self) -> Iterator["MemoryTransaction"]:
        with self._turn:
            draft = copy.deepcopy(self.state)
            yield MemoryTransaction(draft)
            if self.crashes_at_commit:
                raise KeyboardInterrupt
            self.state = draft

    def find_credential(self, key_id: str) -> StoredCredential | None:
        if key_id not in self.state.keys:
            return None
        key, sha256 = self.state.keys[key_id]
        principal = self.state.find_principal(key.principal)
        assert principal is not None
        return StoredCredential(key, sha256, principal, self.state.version)

    def read_policy_set(self) -> PolicySet:
        return self.state.policy_set()

    def find_principal(self, ref: PrincipalRef) -> Principal | None:
        return self.state.find_principal(ref)

    def list_principals(
        self, *, tenant: str | None, after: PrincipalRef | None, limit: int
    ) -> Sequence[Principal]:
        refs = [
            ref
            for ref in sorted(self.state.principals)
            if tenant in (None, ref.tenant) and (after is None or ref > after)
        ]
        found = (self.state.find_principal(ref) for ref in refs[:limit])
        return [principal for principal in found if principal is not None]

    def list_keys(
        self, *, tenant: str | None, principal: str | None, after: KeyCursor | None, limit: int
    ) -> Sequence[ApiKey]:
        def place(key: ApiKey) -> tuple[datetime, str]:
            return key.create_time, key.id

        keys = [
            key
            for key in sorted((key for key, _ in self.state.keys.values()), key=place, reverse=True)
            if tenant in (None, key.principal.tenant)
            and principal in (None, key.principal.name)
            and (after is None or place(key) < (after.create_time, after.key_id))
        ]
        return keys[:limit]

    def list_roles(self, *, after: str | None, limit: int) -> Sequence[Role]:
        names = [name for name in sorted(self.state.roles) if after is None or name > after]
        return [self.state.roles[name] for name in names[:limit]]


class MemoryTransaction:
    def __init__(self, state: State) -> None:
        self._state = state

    def has_tenant(self, name: str) -> bool:
        return name in self._state.tenants

    def insert_tenant(self, name: str, create_time: datetime) -> None:
        self._state.tenants[name] = create_time

    def find_roles(self, names: Collection[str]) -> Sequence[Role]:
        return [self._state.roles[name] for name in sorted(names) if name in self._state.roles]

    def insert_role(self, role: Role) -> None:
        self._state.roles[role.name] = role

    def find_principal(self, ref: PrincipalRef) -> Principal | None:
        return self._state.find_principal(ref)

    def insert_principal(
        self, ref: PrincipalRef, roles: Collection[str], create_time: datetime
    ) -> None:
        self._state.principals[ref] = (tuple(roles), create_time)

    def find_key(self, key_id: str) -> ApiKey | None:
        return self._state.keys[key_id][0] if key_id in self._state.keys else None

    def insert_key(self, key: ApiKey, sha256: str) -> None:
        self._state.keys[key.id] = (key, sha256)

    def revoke_key(self, key_id: str, revoke_time: datetime) -> None:
        key, sha256 = self._state.keys[key_id]
        if key.revoke_time is None:
            self._state.keys[key_id] = (replace(key, revoke_time=revoke_time), sha256)

    def count_admin_keys(self, tenant: str, now: datetime) -> int:
        return sum(
            key.principal.tenant == tenant
            and key.state(now) is KeyState.ACTIVE
            and self._administers(key.principal)
            for key, _ in self._state.keys.values()
        )

    def _administers(self, ref: PrincipalRef) -> bool:
        names, _ = self._state.principals[ref]
        grants = [grant for name in names for grant in self._state.roles[name].grants]
        return any(g.permission in (ANY, "policy") and g.resource == ANY for g in grants)

    def admin_file_key_id(self) -> str | None:
        return self._state.admin_file_key_id

    def set_admin_file_key_id(self, key_id: str) -> None:
        self._state.admin_file_key_id = key_id

    def find_result(
        self, operation: str, idempotency_key: str, *, since: datetime
    ) -> RememberedResult | None:
        result, at = self._state.results.get((operation, idempotency_key), (None, since))
        return result if at >= since else None

    def remember_result(
        self, operation: str, idempotency_key: str, result: RememberedResult, now: datetime
    ) -> None:
        self._state.results[operation, idempotency_key] = (result, now)

    def forget_results(self, *, before: datetime) -> None:
        for key, (_, at) in list(self._state.results.items()):
            if at < before:
                del self._state.results[key]

    def advance(self) -> PolicySet:
        self._state.version += 1
        return self._state.policy_set()


class MemoryKeyFile:
    """An admin key file that can be told to fail."""

    def __init__(self) -> None:
        self.content: str | None = None
        self.error: Exception | None = None

    def read(self) -> str | None:
        return self.content

    def write(self, credential: str) -> None:
        if self.error is not None:
            raise self.error
        self.content = credential


class PlainRules:
    """Decides without Casbin, by the letter of the contract."""

    def __init__(self, policy_set: PolicySet) -> None:
        self._policy_set = policy_set
        self.version = policy_set.version
        self.num_rules = policy_set.num_rules

    def allows(self, question: Question) -> bool:
        held = self._policy_set.memberships.get(question.principal, ())
        return any(
            grant.permission in (ANY, question.permission)
            and covers(grant.resource, question.resource)
            for role in self._policy_set.roles
            if role.name in held
            for grant in role.grants
        )


@pytest.fixture
def now(fake_clock: FakeClock) -> Callable[[], datetime]:
    """The wall clock of a test; moves with `fake_clock`."""
    start = datetime(2026, 1, 1, tzinfo=UTC) - timedelta(seconds=fake_clock())
    return lambda: start + timedelta(seconds=fake_clock())


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def key_file() -> MemoryKeyFile:
    return MemoryKeyFile()


@pytest.fixture
def plain_rules() -> type[PlainRules]:
    return PlainRules


@pytest.fixture
def first_start(
    store: MemoryStore, key_file: MemoryKeyFile, now: Callable[[], datetime]
) -> FirstStart:
    return FirstStart(store, key_file, now)


@pytest.fixture
def administrator(
    store: MemoryStore, first_start: FirstStart, now: Callable[[], datetime]
) -> Administrator:
    """Over a store that was set up."""
    first_start.ensure()
    return Administrator(store, PlainRules, now, remember_results_for=timedelta(hours=24))
