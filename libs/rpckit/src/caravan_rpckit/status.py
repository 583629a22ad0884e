"""The one place where an exception becomes a gRPC status.

Owns the table reason -> code and the assembly of `google.rpc.Status`. Refuses to show anything of
an exception that it does not know.
"""

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from caravan_rpckit.errors import CaravanError, Reason

ERROR_DOMAIN = "caravan"
STATUS_DETAILS_KEY = "grpc-status-details-bin"

_CODES: dict[grpc.StatusCode, tuple[Reason, ...]] = {
    grpc.StatusCode.INVALID_ARGUMENT: (
        Reason.MALFORMED_REQUEST,
        Reason.REQUEST_TOO_LARGE,
        Reason.INVALID_FIELD,
        Reason.EMPTY_INPUT,
        Reason.CONTEXT_LENGTH_EXCEEDED,
        Reason.TOKEN_OUT_OF_RANGE,
        Reason.NO_CHAT_TEMPLATE,
        Reason.CHAT_TEMPLATE_FAILED,
    ),
    grpc.StatusCode.UNAUTHENTICATED: (
        Reason.INVALID_CREDENTIAL,
        Reason.KEY_EXPIRED,
        Reason.KEY_REVOKED,
    ),
    grpc.StatusCode.PERMISSION_DENIED: (Reason.PERMISSION_DENIED, Reason.PEER_NOT_ALLOWED),
    grpc.StatusCode.NOT_FOUND: (
        Reason.MODEL_NOT_FOUND,
        Reason.RESOURCE_NOT_FOUND,
        Reason.STREAM_NOT_KEPT,
    ),
    grpc.StatusCode.ALREADY_EXISTS: (Reason.ALREADY_EXISTS,),
    grpc.StatusCode.ABORTED: (Reason.READER_STALLED, Reason.RESUMED_ELSEWHERE),
    grpc.StatusCode.FAILED_PRECONDITION: (
        Reason.MODEL_NOT_LOADED,
        Reason.MODEL_LOAD_FAILED,
        Reason.MODEL_TOO_LARGE,
        Reason.MODEL_FILE_INVALID,
        Reason.DATA_DIRECTORY_IN_USE,
        Reason.DATA_DIRECTORY_UNWRITABLE,
        Reason.ADDRESS_IN_USE,
        Reason.INVALID_CONFIGURATION,
        Reason.LAST_ADMIN_KEY,
    ),
    grpc.StatusCode.UNAVAILABLE: (
        Reason.QUEUE_FULL,
        Reason.QUEUE_TIMEOUT,
        Reason.DEADLINE_UNREACHABLE,
        Reason.DRAINING,
        Reason.MODEL_LOADING,
        Reason.WORKER_DIED,
        Reason.DEPENDENCY_UNAVAILABLE,
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: (Reason.DEADLINE_EXCEEDED,),
    grpc.StatusCode.CANCELLED: (Reason.CANCELLED,),
    grpc.StatusCode.UNIMPLEMENTED: (Reason.METHOD_NOT_SERVED,),
    grpc.StatusCode.INTERNAL: (Reason.DECODE_FAILED, Reason.POISON_REQUEST, Reason.INTERNAL),
}

CODE_OF_REASON: dict[Reason, grpc.StatusCode] = {
    reason: code for code, reasons in _CODES.items() for reason in reasons
}

# UNAVAILABLE always says when to come back; this is for those that could not compute it.
DEFAULT_RETRY_AFTER_S = 1.0


def status_of(error: CaravanError) -> status_pb2.Status:
    """Assembles the status a client gets for `error`."""
    code = CODE_OF_REASON[error.reason]
    status = status_pb2.Status(code=code.value[0], message=error.message)
    _attach(
        status,
        error_details_pb2.ErrorInfo(
            reason=error.reason, domain=ERROR_DOMAIN, metadata=dict(error.metadata)
        ),
    )
    _attach_violations(status, error)
    retry_after_s = error.retry_after_s
    if retry_after_s is None and code is grpc.StatusCode.UNAVAILABLE:
        retry_after_s = DEFAULT_RETRY_AFTER_S
    if retry_after_s is not None:
        _attach(status, error_details_pb2.RetryInfo(retry_delay=_duration(retry_after_s)))
    return status


def internal_status(trace_id: str) -> status_pb2.Status:
    """The fixed answer to everything unexpected; the log holds the detail under `trace_id`."""
    error = CaravanError(
        "An internal error occurred. The service's log holds the detail under the trace id.",
        metadata={"trace_id": trace_id},
    )
    return status_of(error)


def code_of(status: status_pb2.Status) -> grpc.StatusCode:
    """The gRPC code with the number that `status` holds."""
    return _CODE_OF_NUMBER[status.code]


_CODE_OF_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def _attach(status: status_pb2.Status, detail: object) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)  # type: ignore[arg-type]  # every detail is a message
    status.details.append(packed)


def _attach_violations(status: status_pb2.Status, error: CaravanError) -> None:
    if error.field_violations:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
            for v in error.field_violations
        ]
        _attach(status, error_details_pb2.BadRequest(field_violations=violations))
    if error.quota_violations:
        quotas = [
            error_details_pb2.QuotaFailure.Violation(subject=v.subject, description=v.description)
            for v in error.quota_violations
        ]
        _attach(status, error_details_pb2.QuotaFailure(violations=quotas))


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromMilliseconds(max(1, round(seconds * 1000)))
    return duration
