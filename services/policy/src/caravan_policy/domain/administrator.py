"""The write path: principals and keys come and go.

Each method is one transaction. The rules that it leads to are made before it commits, so that a
committed change can always be put into force.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from caravan_policy.domain.api_keys import ApiKey, Credential, KeyState
from caravan_policy.domain.changes import Outcome, PolicyChange
from caravan_policy.domain.errors import (
    ExistsError,
    InvalidFieldsError,
    LastAdminKeyError,
    NotFoundError,
)
from caravan_policy.domain.field_rules import FieldRules
from caravan_policy.domain.ports import (
    Clock,
    PolicyWriter,
    RememberedResult,
    RulesFactory,
    WriteTransaction,
)
from caravan_policy.domain.principals import Principal, PrincipalRef
from caravan_rpckit.errors import FieldViolation

_CREATE_PRINCIPAL = "CreatePrincipal"
_CREATE_KEY = "CreateApiKey"


@dataclass(frozen=True, slots=True)
class NewPrincipal:
    """A principal to be created, as asked for."""

    ref: PrincipalRef
    roles: tuple[str, ...]
    idempotency_key: str = ""

    def check(self) -> None:
        """Raises InvalidFieldsError when a field breaks the contract."""
        check = FieldRules()
        check.name("name", self.ref.name)
        check.name("tenant", self.ref.tenant)
        check.roles("roles", self.roles)
        check.idempotency_key("idempotency_key", self.idempotency_key)
        check.done()

    @property
    def content_sha256(self) -> str:
        """Equal for requests that ask for the same."""
        return _digest(self.ref.tenant, self.ref.name, *sorted(self.roles))


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to be created, as asked for."""

    principal: PrincipalRef
    description: str = ""
    time_to_live_us: int | None = None
    idempotency_key: str = ""

    def check(self) -> None:
        """Raises InvalidFieldsError when a field breaks the contract."""
        check = FieldRules()
        check.name("principal", self.principal.name)
        check.name("tenant", self.principal.tenant)
        check.description("description", self.description)
        check.time_to_live("time_to_live", self.time_to_live_us)
        check.idempotency_key("idempotency_key", self.idempotency_key)
        check.done()

    @property
    def content_sha256(self) -> str:
        """Equal for requests that ask for the same."""
        ref = self.principal
        return _digest(ref.tenant, ref.name, self.description, self.time_to_live_us)


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key and the only copy of its credential."""

    key: ApiKey
    credential: str = field(repr=False)


class Administrator:
    """Changes who may call. Blocks: call it off the event loop. Thread-safe."""

    def __init__(
        self,
        writer: PolicyWriter,
        make_rules: RulesFactory,
        clock: Clock,
        *,
        remember_results_for: timedelta,
        mint: Callable[[], Credential] = Credential.mint,
    ) -> None:
        self._writer = writer
        self._make_rules = make_rules
        self._clock = clock
        self._remember_results_for = remember_results_for
        self._mint = mint

    def create_principal(self, new: NewPrincipal) -> Outcome[Principal]:
        """Adds a principal with its roles; repeated under one idempotency key, returns the first.

        Raises:
            InvalidFieldsError: a field breaks the contract.
            NotFoundError: tenant or role do not exist.
            ExistsError: the name is taken.
        """
        new.check()
        now = self._clock()
        with self._writer.transaction() as tx:
            existing = tx.find_principal(new.ref)
            if self._find_result(tx, _CREATE_PRINCIPAL, new, now) and existing is not None:
                return Outcome(existing)
            _require_tenant(tx, new.ref.tenant)
            if existing is not None:
                raise ExistsError(
                    f"Principal {new.ref.name!r} exists already in tenant {new.ref.tenant!r}.",
                    resource="principal",
                    name=new.ref.name,
                )
            _require_roles(tx, new.roles)
            tx.insert_principal(new.ref, new.roles, now)
            self._remember(tx, _CREATE_PRINCIPAL, new, str(new.ref), now)
            return Outcome(_require_principal(tx, new.ref), self._change(tx))

    def create_key(self, new: NewKey) -> Outcome[IssuedKey]:
        """Makes a key. Its credential is returned here and nowhere else.

        Raises:
            InvalidFieldsError: a field breaks the contract.
            NotFoundError: the principal does not exist.
            ExistsError: the credential was handed out for this idempotency key already.
        """
        new.check()
        now = self._clock()
        with self._writer.transaction() as tx:
            first = self._find_result(tx, _CREATE_KEY, new, now)
            if first is not None:
                raise ExistsError(
                    f"Key {first.resource} was made by this request before; its secret is not "
                    "shown again.",
                    resource="api_key",
                    name=first.resource,
                )
            _require_principal(tx, new.principal)
            issued = self._issue(tx, new, now)
            self._remember(tx, _CREATE_KEY, new, issued.key.id, now)
            return Outcome(issued, self._change(tx))

    def revoke_key(self, key_id: str) -> Outcome[ApiKey]:
        """Makes a key stop working; once revoked, nothing changes.

        Raises:
            InvalidFieldsError: this is no identifier of a key.
            NotFoundError: there is no such key.
            LastAdminKeyError: nobody could administer the tenant any more.
        """
        check = FieldRules()
        check.key_id("id", key_id)
        check.done()
        now = self._clock()
        with self._writer.transaction() as tx:
            key = _require_key(tx, key_id)
            if key.state(now) is KeyState.REVOKED:
                return Outcome(key)
            num_before = tx.count_admin_keys(key.principal.tenant, now)
            tx.revoke_key(key_id, now)
            if num_before and not tx.count_admin_keys(key.principal.tenant, now):
                raise LastAdminKeyError(key_id)
            return Outcome(_require_key(tx, key_id), self._change(tx, key_id))

    def _issue(self, tx: WriteTransaction, new: NewKey, now: datetime) -> IssuedKey:
        credential = self._mint()
        ttl_us = new.time_to_live_us
        expire_time = None if ttl_us is None else now + timedelta(microseconds=ttl_us)
        key = ApiKey(credential.key_id, new.principal, new.description, now, expire_time)
        tx.insert_key(key, credential.sha256)
        return IssuedKey(key, credential.text)

    def _change(self, tx: WriteTransaction, *revoked_key_ids: str) -> PolicyChange:
        return PolicyChange(self._make_rules(tx.advance()), revoked_key_ids)

    def _find_result(
        self, tx: WriteTransaction, operation: str, new: NewPrincipal | NewKey, now: datetime
    ) -> RememberedResult | None:
        if not new.idempotency_key:
            return None
        since = now - self._remember_results_for
        first = tx.find_result(operation, new.idempotency_key, since=since)
        if first is not None and first.content_sha256 != new.content_sha256:
            raise InvalidFieldsError(
                [FieldViolation("idempotency_key", "was used for another request")]
            )
        return first

    def _remember(
        self,
        tx: WriteTransaction,
        operation: str,
        new: NewPrincipal | NewKey,
        resource: str,
        now: datetime,
    ) -> None:
        tx.forget_results(before=now - self._remember_results_for)
        if new.idempotency_key:
            result = RememberedResult(new.content_sha256, resource)
            tx.remember_result(operation, new.idempotency_key, result, now)


def _require_tenant(tx: WriteTransaction, name: str) -> None:
    if not tx.has_tenant(name):
        raise NotFoundError("tenant", name)


def _require_roles(tx: WriteTransaction, names: tuple[str, ...]) -> None:
    known = {role.name for role in tx.find_roles(names)}
    for name in names:
        if name not in known:
            raise NotFoundError("role", name)


def _require_principal(tx: WriteTransaction, ref: PrincipalRef) -> Principal:
    principal = tx.find_principal(ref)
    if principal is None:
        raise NotFoundError("principal", ref.name)
    return principal


def _require_key(tx: WriteTransaction, key_id: str) -> ApiKey:
    key = tx.find_key(key_id)
    if key is None:
        raise NotFoundError("api_key", key_id)
    return key


def _digest(*parts: str | int | None) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
