"""What the policy service refuses.

PolicyError
├── InvalidCredentialError   no credential, or one that is malformed, unknown or wrong
├── KeyExpiredError          the right secret of a key whose time is over
├── KeyRevokedError          the right secret of a revoked key
├── InvalidFieldsError       fields of a request break the contract
├── NotFoundError            no such principal, key, role or tenant
├── ExistsError              the name is taken, or the secret was handed out already
├── LastAdminKeyError        nobody could administer the tenant any more
├── ReaderStalledError       a watcher did not read
├── TooManyWatchersError     all places for watchers are taken
├── DrainingError            the service is stopping
├── StoreUnavailableError    the database does not answer
└── StoreUnusableError       the database cannot be served at all; ends the start
"""

from collections.abc import Sequence
from typing import ClassVar

from caravan_rpckit.errors import CaravanError, FieldViolation, Reason


class PolicyError(CaravanError):
    """Base of everything that the policy service refuses."""


class InvalidCredentialError(PolicyError):
    """One reason and one text for every way of not knowing a secret, so that nothing is learnt."""

    reason: ClassVar[Reason] = Reason.INVALID_CREDENTIAL

    def __init__(self) -> None:
        super().__init__("A valid credential is needed: authorization: Bearer <API key>.")


class KeyExpiredError(PolicyError):
    """Shown only to who holds the secret."""

    reason: ClassVar[Reason] = Reason.KEY_EXPIRED

    def __init__(self, key_id: str) -> None:
        super().__init__("The API key has expired.", metadata={"key_id": key_id})


class KeyRevokedError(PolicyError):
    """Shown only to who holds the secret."""

    reason: ClassVar[Reason] = Reason.KEY_REVOKED

    def __init__(self, key_id: str) -> None:
        super().__init__("The API key was revoked.", metadata={"key_id": key_id})


class InvalidFieldsError(PolicyError):
    """Names every faulty field at once."""

    reason: ClassVar[Reason] = Reason.INVALID_FIELD

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        faults = "; ".join(f"{v.field}: {v.description}" for v in violations)
        super().__init__(f"Invalid fields: {faults}.", field_violations=violations)


class NotFoundError(PolicyError):
    """`name` must have passed the rule for names: what is malformed is never repeated."""

    reason: ClassVar[Reason] = Reason.RESOURCE_NOT_FOUND

    def __init__(self, resource: str, name: str) -> None:
        super().__init__(
            f"There is no {resource.replace('_', ' ')} {name!r}.",
            metadata={"resource": resource, "name": name},
        )


class ExistsError(PolicyError):
    """The metadata names what exists."""

    reason: ClassVar[Reason] = Reason.ALREADY_EXISTS

    def __init__(self, message: str, *, resource: str, name: str) -> None:
        super().__init__(message, metadata={"resource": resource, "name": name})


class LastAdminKeyError(PolicyError):
    """Revoking this key would lock everybody out."""

    reason: ClassVar[Reason] = Reason.LAST_ADMIN_KEY

    def __init__(self, key_id: str) -> None:
        super().__init__(
            "This is the last working admin key of its tenant. Create another one first.",
            metadata={"key_id": key_id},
        )


class ReaderStalledError(PolicyError):
    """What the watcher missed is not kept; it must start again and forget what it knows."""

    reason: ClassVar[Reason] = Reason.READER_STALLED

    def __init__(self) -> None:
        super().__init__("The watcher did not read its events. Watch again and forget the rest.")


class TooManyWatchersError(PolicyError):
    """Places for watchers are bounded."""

    reason: ClassVar[Reason] = Reason.QUEUE_FULL

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"All {limit} places for watchers are taken.",
            metadata={"limit": str(limit)},
            retry_after_s=1.0,
        )


class DrainingError(PolicyError):
    """The service is stopping."""

    reason: ClassVar[Reason] = Reason.DRAINING

    def __init__(self) -> None:
        super().__init__("The policy service is stopping.", retry_after_s=1.0)


class StoreUnavailableError(PolicyError):
    """The database does not answer now; the log says why."""

    reason: ClassVar[Reason] = Reason.DEPENDENCY_UNAVAILABLE

    def __init__(self) -> None:
        super().__init__(
            "The policy database does not answer.",
            metadata={"service": "policy-database"},
            retry_after_s=1.0,
        )


class StoreUnusableError(PolicyError):
    """Ends the start; its text is for the operator and may name files."""

    reason: ClassVar[Reason] = Reason.INVALID_CONFIGURATION
