"""What a mutation leaves behind: a value for the caller, and a change to make known."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from caravan_policy.domain.ports import DecisionRules

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """A committed change: the rules from now on, and the keys that stopped working with it."""

    rules: DecisionRules
    revoked_key_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """The result of a mutation; `change` is None where nothing changed."""

    value: T
    change: PolicyChange | None = None
