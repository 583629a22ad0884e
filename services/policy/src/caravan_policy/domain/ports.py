"""What the domain needs of the outside, each port the size of one capability.

All of it may block, and raises StoreUnavailableError when the store does not answer.
"""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from caravan_policy.domain.api_keys import ApiKey, StoredCredential
from caravan_policy.domain.decision import Question
from caravan_policy.domain.policy_set import PolicySet
from caravan_policy.domain.principals import Principal, PrincipalRef, Role

Clock = Callable[[], datetime]  # aware, in UTC


class DecisionRules(Protocol):
    """A policy made ready for deciding. Immutable; answers without blocking."""

    @property
    def version(self) -> int:
        """The version of the policy set that it was made from."""

    @property
    def num_rules(self) -> int:
        """How many rules it holds in memory."""

    def allows(self, question: Question) -> bool:
        """Whether any grant of any role of the principal covers the question."""


RulesFactory = Callable[[PolicySet], DecisionRules]


class CredentialReader(Protocol):
    """Looks keys up for authentication. Thread-safe."""

    def find_credential(self, key_id: str) -> StoredCredential | None:
        """Key, principal and policy version as of one moment; None for an unknown id."""


@dataclass(frozen=True, slots=True)
class KeyCursor:
    """A place in the list of keys, newest first."""

    create_time: datetime
    key_id: str


class DirectoryReader(Protocol):
    """Reads what administrators look at. Lists start behind `after`. Thread-safe."""

    def find_principal(self, ref: PrincipalRef) -> Principal | None:
        """One principal."""

    def list_principals(
        self, *, tenant: str | None, after: PrincipalRef | None, limit: int
    ) -> Sequence[Principal]:
        """By tenant and name."""

    def list_keys(
        self, *, tenant: str | None, principal: str | None, after: KeyCursor | None, limit: int
    ) -> Sequence[ApiKey]:
        """Newest first; those of one moment by id, descending."""

    def list_roles(self, *, after: str | None, limit: int) -> Sequence[Role]:
        """By name."""


@dataclass(frozen=True, slots=True)
class RememberedResult:
    """What a mutation with an idempotency key did."""

    content_sha256: str
    resource: str


class WriteTransaction(Protocol):
    """One change of the policy; alone, and complete or not at all. Lives in one thread."""

    def has_tenant(self, name: str) -> bool:
        """Whether the tenant exists."""

    def insert_tenant(self, name: str, create_time: datetime) -> None:
        """Adds a tenant that does not exist."""

    def find_roles(self, names: Collection[str]) -> Sequence[Role]:
        """Those of `names` that exist, by name."""

    def insert_role(self, role: Role) -> None:
        """Adds a role that does not exist."""

    def find_principal(self, ref: PrincipalRef) -> Principal | None:
        """One principal."""

    def insert_principal(
        self, ref: PrincipalRef, roles: Collection[str], create_time: datetime
    ) -> None:
        """Adds a principal that does not exist, with roles that do."""

    def find_key(self, key_id: str) -> ApiKey | None:
        """One key."""

    def insert_key(self, key: ApiKey, sha256: str) -> None:
        """Adds a key of a principal that exists."""

    def revoke_key(self, key_id: str, revoke_time: datetime) -> None:
        """Marks a key as revoked."""

    def count_admin_keys(self, tenant: str, now: datetime) -> int:
        """Keys that work at `now` and may administer the tenant's policy.

        These are keys of principals with a role that grants `policy` or `*` on `*`.
        """

    def admin_file_key_id(self) -> str | None:
        """The key that was last written to the admin key file."""

    def set_admin_file_key_id(self, key_id: str) -> None:
        """Remembers which key was written to the admin key file."""

    def find_result(
        self, operation: str, idempotency_key: str, *, since: datetime
    ) -> RememberedResult | None:
        """What `operation` did under this key, if that is not older than `since`."""

    def remember_result(
        self, operation: str, idempotency_key: str, result: RememberedResult, now: datetime
    ) -> None:
        """Remembers, in place of an older result of the same key."""

    def forget_results(self, *, before: datetime) -> None:
        """Forgets what is older."""

    def advance(self) -> PolicySet:
        """Raises the policy version by one and reads the policy as this transaction leaves it."""


class PolicyWriter(Protocol):
    """Changes the policy. Thread-safe; transactions run one after another."""

    def transaction(self) -> AbstractContextManager[WriteTransaction]:
        """Commits, durably, when the block ends; rolls back when it raises."""


class AdminKeyFile(Protocol):
    """Where the first administrator finds the key."""

    def read(self) -> str | None:
        """What it holds, without surrounding whitespace; None when there is none."""

    def write(self, credential: str) -> None:
        """Replaces it atomically and durably, readable by the owner only.

        Raises:
            StoreUnusableError: it cannot be written.
        """
