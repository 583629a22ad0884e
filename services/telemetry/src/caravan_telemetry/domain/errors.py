"""What the telemetry service refuses.

TelemetryError
├── InvalidFieldsError       fields of a request break the contract
├── HostTakenOverError       a newer stream speaks for the same host
├── IntakeFullError          too many batches wait to be stored
├── DrainingError            the service is stopping
├── TraceNotFoundError       no span of a call is stored
├── StoreUnavailableError    the database cannot store now, for example because the disk is full
└── StoreUnusableError       the database cannot be served at all; ends the start
"""

from collections.abc import Sequence
from typing import ClassVar

from caravan_rpckit.errors import CaravanError, FieldViolation, Reason

_FAULTS_IN_TEXT = 5
_FAULTS_IN_DETAILS = 32
"""Details travel in trailing metadata, for which gRPC allows 8 KiB."""


class TelemetryError(CaravanError):
    """Base of everything that the telemetry service refuses."""


class InvalidFieldsError(TelemetryError):
    """Names the first faulty fields, and repeats none of their values."""

    reason: ClassVar[Reason] = Reason.INVALID_FIELD

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        faults = "; ".join(f"{v.field}: {v.description}" for v in violations[:_FAULTS_IN_TEXT])
        more = len(violations) - _FAULTS_IN_TEXT
        rest = f" and {more} more" if more > 0 else ""
        super().__init__(
            f"Invalid fields: {faults}{rest}.", field_violations=violations[:_FAULTS_IN_DETAILS]
        )


class HostTakenOverError(TelemetryError):
    """Ends the older of two streams for one host; two engines must not share a host id."""

    reason: ClassVar[Reason] = Reason.ALREADY_EXISTS

    def __init__(self) -> None:
        super().__init__("A newer stream speaks for this host. Host ids must be unique.")


class IntakeFullError(TelemetryError):
    """Nothing of the batch was stored; the sender keeps it."""

    reason: ClassVar[Reason] = Reason.QUEUE_FULL

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} batches wait to be stored already.",
            metadata={"limit": str(limit)},
            retry_after_s=1.0,
        )


class DrainingError(TelemetryError):
    """The service is stopping."""

    reason: ClassVar[Reason] = Reason.DRAINING

    def __init__(self) -> None:
        super().__init__("The telemetry service is stopping.", retry_after_s=1.0)


class TraceNotFoundError(TelemetryError):
    """The call was never made, was not traced, its spans are on their way, or were removed."""

    reason: ClassVar[Reason] = Reason.RESOURCE_NOT_FOUND

    def __init__(self, request_id: str) -> None:
        super().__init__(
            "No trace of this request is stored. Spans arrive a second or two after a call, and "
            "are removed with age.",
            metadata={"resource": "trace", "name": request_id},
        )


class StoreUnavailableError(TelemetryError):
    """Nothing of the batch was stored; the sender keeps it. The log says why."""

    reason: ClassVar[Reason] = Reason.DEPENDENCY_UNAVAILABLE

    def __init__(self) -> None:
        super().__init__(
            "The telemetry database cannot store now.",
            metadata={"service": "telemetry-database"},
            retry_after_s=5.0,
        )


class StoreUnusableError(TelemetryError):
    """Ends the start; its text is for the operator and may name files."""

    reason: ClassVar[Reason] = Reason.INVALID_CONFIGURATION
