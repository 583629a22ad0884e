"""What a call can fail with. Pure Python: importing it loads neither gRPC nor the protos.

CaravanError
├── ConfigurationError            this client is set up wrongly; nothing was sent
│   └── NoCredentialError         no API key was found
├── InvalidRequestError           INVALID_ARGUMENT, OUT_OF_RANGE; or refused by this client
├── UnauthenticatedError          UNAUTHENTICATED
├── PermissionDeniedError         PERMISSION_DENIED
├── NotFoundError                 NOT_FOUND
├── AlreadyExistsError            ALREADY_EXISTS
├── FailedPreconditionError       FAILED_PRECONDITION
├── AbortedError                  ABORTED
├── RateLimitedError              RESOURCE_EXHAUSTED
├── UnavailableError              UNAVAILABLE
│   └── GatewayUnreachableError   no connection could be made
├── DeadlineExceededError         DEADLINE_EXCEEDED
├── CallCancelledError            CANCELLED
├── UnimplementedError            UNIMPLEMENTED
└── InternalError                 INTERNAL, UNKNOWN, DATA_LOSS and answers that make no sense
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One faulty field: its path in the request (`sampling.top_p`) and what is allowed."""

    field: str
    description: str


@dataclass(frozen=True, slots=True)
class QuotaViolation:
    """One exhausted limit: whose it is (`principal:alice`) and what it says."""

    subject: str
    description: str


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """Everything known about a failure beside its message."""

    code: str = ""
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after_s: float | None = None
    field_violations: tuple[FieldViolation, ...] = ()
    quota_violations: tuple[QuotaViolation, ...] = ()
    request_id: str | None = None


class CaravanError(Exception):
    """The base of everything this SDK raises.

    `reason` is one of the documented reasons of `caravan.errors.v1.ErrorReason` where a Caravan
    service spoke, else one of this client's own: `GATEWAY_UNREACHABLE`, `CONNECTION_LOST`,
    `NO_CREDENTIAL`, `INVALID_CONFIGURATION`, `INVALID_ANSWER` or the name of the gRPC code.
    """

    default_code: ClassVar[str] = "UNKNOWN"

    def __init__(self, message: str, details: ErrorDetails | None = None) -> None:
        self.message = message
        self.details = details or ErrorDetails()
        super().__init__(message, self.details)  # both, so that it can be pickled

    @property
    def code(self) -> str:
        """Name of the gRPC status code, such as `UNAVAILABLE`."""
        return self.details.code or self.default_code

    @property
    def reason(self) -> str:
        """Why, in one word to compare with."""
        return self.details.reason or self.code

    @property
    def metadata(self) -> Mapping[str, str]:
        """Facts about the failure, such as `input_tokens` and `context_tokens`."""
        return self.details.metadata

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which repeating may help; None when the server did not say."""
        return self.details.retry_after_s

    @property
    def field_violations(self) -> tuple[FieldViolation, ...]:
        """The faulty fields of the request."""
        return self.details.field_violations

    @property
    def quota_violations(self) -> tuple[QuotaViolation, ...]:
        """The limits that were reached."""
        return self.details.quota_violations

    @property
    def request_id(self) -> str | None:
        """The call's name in logs, traces and usage; None when nothing was sent."""
        return self.details.request_id

    def __str__(self) -> str:
        faults = "".join(
            f"; {fault.field}: {fault.description}"
            for fault in self.field_violations
            if fault.field not in self.message
        )
        marks = [self.reason] + ([f"request {self.request_id}"] if self.request_id else [])
        return f"{self.message}{faults} [{', '.join(marks)}]"


class ConfigurationError(CaravanError):
    """This client is set up wrongly; nothing was sent."""

    default_code = "FAILED_PRECONDITION"


class NoCredentialError(ConfigurationError):
    """No API key was given or found."""

    default_code = "UNAUTHENTICATED"


class InvalidRequestError(CaravanError):
    """The request is malformed or out of bounds; repeat it only after mending it."""

    default_code = "INVALID_ARGUMENT"


class UnauthenticatedError(CaravanError):
    """The API key is missing, wrong, expired or revoked."""

    default_code = "UNAUTHENTICATED"


class PermissionDeniedError(CaravanError):
    """None of the principal's roles allows this."""

    default_code = "PERMISSION_DENIED"


class NotFoundError(CaravanError):
    """No such model, key, principal or role."""

    default_code = "NOT_FOUND"


class AlreadyExistsError(CaravanError):
    """A resource of this name exists."""

    default_code = "ALREADY_EXISTS"


class FailedPreconditionError(CaravanError):
    """Somebody has to mend something first, such as loading the model."""

    default_code = "FAILED_PRECONDITION"


class AbortedError(CaravanError):
    """The call was ended for what this client did, such as not reading its stream."""

    default_code = "ABORTED"


class RateLimitedError(CaravanError):
    """A limit, quota or budget is used up; `retry_after_s` says for how long."""

    default_code = "RESOURCE_EXHAUSTED"


class UnavailableError(CaravanError):
    """Passing trouble: queue full, loading, draining, a worker that died."""

    default_code = "UNAVAILABLE"


class GatewayUnreachableError(UnavailableError):
    """No connection to the gateway could be made."""


class DeadlineExceededError(CaravanError):
    """The answer did not come within `timeout_s`."""

    default_code = "DEADLINE_EXCEEDED"


class CallCancelledError(CaravanError):
    """The call was cancelled by somebody else than its caller."""

    default_code = "CANCELLED"


class UnimplementedError(CaravanError):
    """The server does not serve this method; it may be older than this client."""

    default_code = "UNIMPLEMENTED"


class InternalError(CaravanError):
    """A fault of the service; its log holds more under the request id."""

    default_code = "INTERNAL"
