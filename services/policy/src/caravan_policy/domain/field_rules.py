"""What the fields of requests may hold. All faults of a request are reported together.

Faulty values are never repeated: somebody may have pasted a secret into the wrong field.
"""

import re
from collections.abc import Sequence

from caravan_policy.domain.api_keys import is_key_id
from caravan_policy.domain.errors import InvalidFieldsError
from caravan_policy.domain.permissions import ANY, Permission
from caravan_rpckit.errors import FieldViolation

_NAME = re.compile(r"[a-z0-9._-]{1,63}")
_MODEL_PREFIX = "model/"
MAX_RESOURCE_CHARS = 512
MAX_ROLES = 32
MAX_DESCRIPTION_CHARS = 200
MAX_IDEMPOTENCY_KEY_CHARS = 64
MIN_TIME_TO_LIVE_US = 1_000_000
MAX_TIME_TO_LIVE_US = 100 * 365 * 24 * 3600 * 1_000_000
_PERMISSIONS = frozenset(Permission)


class FieldRules:
    """Collects violations; `done` raises when there are any."""

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []

    def done(self) -> None:
        """Ends the check.

        Raises:
            InvalidFieldsError: naming each faulty field.
        """
        if self._violations:
            raise InvalidFieldsError(self._violations)

    def refuse(self, field: str, description: str) -> None:
        """Notes that `field` is faulty; `description` says what is allowed."""
        self._violations.append(FieldViolation(field, description))

    def name(self, field: str, value: str) -> None:
        """A name of a tenant, principal or role."""
        if not is_name(value):
            self.refuse(field, "must be 1 to 63 of a-z 0-9 . _ -")

    def optional_name(self, field: str, value: str) -> None:
        """A name, or empty."""
        if value:
            self.name(field, value)

    def roles(self, field: str, values: Sequence[str]) -> None:
        """At least one role, none twice."""
        if not 1 <= len(values) <= MAX_ROLES:
            self.refuse(field, f"must hold 1 to {MAX_ROLES} roles")
            return
        for index, value in enumerate(values):
            self.name(f"{field}[{index}]", value)
        if len(set(values)) < len(values):
            self.refuse(field, "must not hold a role twice")

    def key_id(self, field: str, value: str) -> None:
        """The public identifier of a key."""
        if not is_key_id(value):
            self.refuse(field, "must be the identifier of a key, without the secret")

    def description(self, field: str, value: str) -> None:
        """A short printable note."""
        if len(value) > MAX_DESCRIPTION_CHARS or not value.isprintable():
            self.refuse(field, f"must be at most {MAX_DESCRIPTION_CHARS} printable characters")

    def idempotency_key(self, field: str, value: str) -> None:
        """A short printable text, or empty."""
        if len(value) > MAX_IDEMPOTENCY_KEY_CHARS or not value.isprintable():
            self.refuse(field, f"must be at most {MAX_IDEMPOTENCY_KEY_CHARS} printable characters")

    def time_to_live(self, field: str, value_us: int | None) -> None:
        """Microseconds, or None for ever."""
        if value_us is not None and not MIN_TIME_TO_LIVE_US <= value_us <= MAX_TIME_TO_LIVE_US:
            self.refuse(field, "must be at least 1 s and at most 100 years")

    def permission(self, field: str, value: str) -> None:
        """One of the permissions that can be asked for."""
        if value not in _PERMISSIONS:
            self.refuse(field, f"must be one of {', '.join(Permission)}")

    def resource(self, field: str, value: str) -> None:
        """`*`, or `model/` and a name."""
        named = value.startswith(_MODEL_PREFIX) and len(value) > len(_MODEL_PREFIX)
        if value != ANY and not (named and len(value) <= MAX_RESOURCE_CHARS):
            self.refuse(field, "must be model/NAME or *")


def is_name(text: str) -> bool:
    """Whether `text` has the form of a name."""
    return _NAME.fullmatch(text) is not None
