"""From a failed gRPC call to an exception of this SDK.

Owns the table code -> exception. Never shows what was sent: neither key nor prompt.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from caravan_client.connection import is_loopback
from caravan_client.errors import (
    AbortedError,
    AlreadyExistsError,
    CallCancelledError,
    CaravanError,
    DeadlineExceededError,
    ErrorDetails,
    FailedPreconditionError,
    FieldViolation,
    GatewayUnreachableError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    QuotaViolation,
    RateLimitedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)

REQUEST_ID_KEY = "x-request-id"
_DETAILS_KEY = "grpc-status-details-bin"
_DOMAIN = "caravan"

_CLASSES: dict[str, type[CaravanError]] = {
    "INVALID_ARGUMENT": InvalidRequestError,
    "OUT_OF_RANGE": InvalidRequestError,
    "UNAUTHENTICATED": UnauthenticatedError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "NOT_FOUND": NotFoundError,
    "ALREADY_EXISTS": AlreadyExistsError,
    "FAILED_PRECONDITION": FailedPreconditionError,
    "ABORTED": AbortedError,
    "RESOURCE_EXHAUSTED": RateLimitedError,
    "UNAVAILABLE": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "CANCELLED": CallCancelledError,
    "UNIMPLEMENTED": UnimplementedError,
    "INTERNAL": InternalError,
    "UNKNOWN": InternalError,
    "DATA_LOSS": InternalError,
}

_NOBODY_LISTENS = "nothing listens there"

# What gRPC says of a connection that could not be made -> what that means. First match counts.
_CONNECTION_FAULTS = (
    ("connection refused", _NOBODY_LISTENS),
    ("no such file", _NOBODY_LISTENS),
    ("certificate_verify_failed", "its TLS certificate is not trusted; name the CA that signed it"),
    ("hostname verification", "its TLS certificate is for another name"),
    ("wrong_version_number", "what listens there does not speak TLS"),
    ("handshake", "the TLS handshake failed"),
    ("settings frame", "what listens there does not speak gRPC in plaintext"),
    ("failed to connect.*socket closed", "the connection is closed at once; it may want TLS"),
    ("resol|lookup", "its name cannot be resolved"),
    ("timeout|timed out", "it does not answer"),
    ("failed to connect", "connecting failed"),
)


@dataclass(frozen=True, slots=True)
class CallContext:
    """What the caller knows about the attempt that failed."""

    address: str
    request_id: str
    timeout_s: float | None


def error_of(error: grpc.RpcError, context: CallContext) -> CaravanError:
    """Makes the exception for `error`, from the rich status where there is one."""
    code = error.code().name
    request_id = _text(_entries(error, "initial_metadata"), REQUEST_ID_KEY) or context.request_id
    status = _rich_status(error)
    details = None if status is None else _details_of(status, code, request_id)
    if status is None or details is None:
        return _plain_error(code, error.details() or "", request_id, context)
    return _CLASSES.get(code, InternalError)(status.message, details)


def _plain_error(code: str, text: str, request_id: str, context: CallContext) -> CaravanError:
    """An exception for a status that no Caravan service wrote."""
    details = ErrorDetails(code=code, request_id=request_id)
    if code == "UNAVAILABLE":
        return _connection_error(text, request_id, context)
    if code == "DEADLINE_EXCEEDED":
        limit = "the deadline" if context.timeout_s is None else f"{context.timeout_s:g} s"
        return DeadlineExceededError(
            f"{context.address} did not answer within {limit}; a longer timeout may help", details
        )
    if code == "UNIMPLEMENTED":
        return UnimplementedError(
            f"{context.address} does not serve this call: it is an older gateway, or none", details
        )
    return _CLASSES.get(code, InternalError)(text or f"the call failed with {code}", details)


def _connection_error(text: str, request_id: str, context: CallContext) -> CaravanError:
    fault = next(
        (fault for mark, fault in _CONNECTION_FAULTS if re.search(mark, text, re.IGNORECASE)), None
    )
    if fault is None:
        return UnavailableError(
            f"the connection to {context.address} broke: {text}",
            ErrorDetails(reason="CONNECTION_LOST", request_id=request_id),
        )
    local = fault is _NOBODY_LISTENS and is_loopback(context.address)
    advice = "`make run` starts one, CARAVAN_ADDRESS names another" if local else ""
    return GatewayUnreachableError(
        f"no gateway could be reached at {context.address}: {fault}" + (advice and f"; {advice}"),
        ErrorDetails(reason="GATEWAY_UNREACHABLE"),
    )


def _rich_status(error: grpc.RpcError) -> status_pb2.Status | None:
    for key, value in _entries(error, "trailing_metadata"):
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                return None
    return None


def _details_of(status: status_pb2.Status, code: str, request_id: str) -> ErrorDetails | None:
    """Reads the details; None when they are not those of a Caravan service."""
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    bad_request = error_details_pb2.BadRequest()
    quota = error_details_pb2.QuotaFailure()
    found = {
        target.DESCRIPTOR.name
        for detail in status.details
        for target in (info, retry, bad_request, quota)
        if detail.Unpack(target)
    }
    if info.domain != _DOMAIN:
        return None
    retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
    return ErrorDetails(
        code=code,
        reason=info.reason,
        metadata=dict(info.metadata),
        retry_after_s=retry_after_s if "RetryInfo" in found else None,
        field_violations=tuple(
            FieldViolation(entry.field, entry.description) for entry in bad_request.field_violations
        ),
        quota_violations=tuple(
            QuotaViolation(entry.subject, entry.description) for entry in quota.violations
        ),
        request_id=request_id,
    )


def _entries(error: grpc.RpcError, kind: str) -> Iterable[tuple[str, str | bytes]]:
    """Metadata of a failed call; an error that never was a call has none."""
    read = getattr(error, kind, None)
    return (read() if read else None) or ()


def _text(entries: Iterable[tuple[str, str | bytes]], key: str) -> str | None:
    return next((v for name, v in entries if name == key and isinstance(v, str)), None)
