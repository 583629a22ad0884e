"""The base of every exception that may reach a client, and the documented reasons.

Pure Python on purpose: domain code imports this module, so it must not import gRPC. Which status
code a reason travels under is decided in one place only, `caravan_rpckit.status`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class Reason(StrEnum):
    """Why a call failed; travels as `google.rpc.ErrorInfo.reason`.

    Equals `caravan.errors.v1.ErrorReason` without its prefix (a test holds the two together).
    """

    # Bad input: repeat only after mending it.
    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    REQUEST_TOO_LARGE = "REQUEST_TOO_LARGE"
    INVALID_FIELD = "INVALID_FIELD"
    EMPTY_INPUT = "EMPTY_INPUT"
    CONTEXT_LENGTH_EXCEEDED = "CONTEXT_LENGTH_EXCEEDED"
    TOKEN_OUT_OF_RANGE = "TOKEN_OUT_OF_RANGE"  # noqa: S105 (a reason, not a secret)
    NO_CHAT_TEMPLATE = "NO_CHAT_TEMPLATE"
    CHAT_TEMPLATE_FAILED = "CHAT_TEMPLATE_FAILED"
    # Who is calling, and what they may do.
    INVALID_CREDENTIAL = "INVALID_CREDENTIAL"
    KEY_EXPIRED = "KEY_EXPIRED"
    KEY_REVOKED = "KEY_REVOKED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    PEER_NOT_ALLOWED = "PEER_NOT_ALLOWED"
    # Things that are not there, or are there already.
    MODEL_NOT_FOUND = "MODEL_NOT_FOUND"
    RESOURCE_NOT_FOUND = "RESOURCE_NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    STREAM_NOT_KEPT = "STREAM_NOT_KEPT"
    # State that somebody has to mend first.
    MODEL_NOT_LOADED = "MODEL_NOT_LOADED"
    MODEL_LOAD_FAILED = "MODEL_LOAD_FAILED"
    MODEL_TOO_LARGE = "MODEL_TOO_LARGE"
    MODEL_FILE_INVALID = "MODEL_FILE_INVALID"
    DATA_DIRECTORY_IN_USE = "DATA_DIRECTORY_IN_USE"
    DATA_DIRECTORY_UNWRITABLE = "DATA_DIRECTORY_UNWRITABLE"
    ADDRESS_IN_USE = "ADDRESS_IN_USE"
    INVALID_CONFIGURATION = "INVALID_CONFIGURATION"
    LAST_ADMIN_KEY = "LAST_ADMIN_KEY"
    # Passing trouble: repeat after the delay in RetryInfo.
    QUEUE_FULL = "QUEUE_FULL"
    QUEUE_TIMEOUT = "QUEUE_TIMEOUT"
    DEADLINE_UNREACHABLE = "DEADLINE_UNREACHABLE"
    DRAINING = "DRAINING"
    MODEL_LOADING = "MODEL_LOADING"
    WORKER_DIED = "WORKER_DIED"
    DEPENDENCY_UNAVAILABLE = "DEPENDENCY_UNAVAILABLE"
    # The call itself ran out.
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CANCELLED = "CANCELLED"
    READER_STALLED = "READER_STALLED"
    RESUMED_ELSEWHERE = "RESUMED_ELSEWHERE"
    # Our fault.
    DECODE_FAILED = "DECODE_FAILED"
    POISON_REQUEST = "POISON_REQUEST"
    METHOD_NOT_SERVED = "METHOD_NOT_SERVED"
    INTERNAL = "INTERNAL"


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


class CaravanError(Exception):
    """A failure with a documented reason; everything in it may be shown to the client.

    Never put prompts, credentials or paths of the server into `message` or `metadata`.
    """

    reason: ClassVar[Reason] = Reason.INTERNAL

    def __init__(
        self,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        field_violations: Sequence[FieldViolation] = (),
        retry_after_s: float | None = None,
        quota_violations: Sequence[QuotaViolation] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.field_violations = tuple(field_violations)
        self.retry_after_s = retry_after_s
        self.quota_violations = tuple(quota_violations)
