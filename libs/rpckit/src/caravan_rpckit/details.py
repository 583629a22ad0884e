"""Reads the rich status of a failed call, for clients and for services that pass errors on."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import grpc
from google.rpc import error_details_pb2, status_pb2

from caravan_rpckit.errors import FieldViolation, QuotaViolation
from caravan_rpckit.status import ERROR_DOMAIN, STATUS_DETAILS_KEY


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """What a Caravan service said about a failure."""

    reason: str
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after_s: float | None = None
    field_violations: tuple[FieldViolation, ...] = ()
    quota_violations: tuple[QuotaViolation, ...] = ()


def rich_status(error: grpc.RpcError) -> status_pb2.Status | None:
    """The `google.rpc.Status` that came with `error`, or None where there is no sound one."""
    trailing = getattr(error, "trailing_metadata", None)
    for key, value in (trailing() if trailing else None) or ():
        if key == STATUS_DETAILS_KEY:
            return _parse(value)
    return None


def error_details(error: grpc.RpcError) -> ErrorDetails | None:
    """What a Caravan service said about `error`, or None when no Caravan service spoke."""
    status = rich_status(error)
    return None if status is None else details_of(status)


def details_of(status: status_pb2.Status) -> ErrorDetails | None:
    """Unpacks `status`; None when it holds no ErrorInfo of Caravan."""
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    quota = error_details_pb2.QuotaFailure()
    retry = error_details_pb2.RetryInfo()
    retry_after_s = None
    for detail in status.details:
        for target in (info, bad_request, quota):
            detail.Unpack(target)
        if detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    if info.domain != ERROR_DOMAIN:
        return None
    return ErrorDetails(
        reason=info.reason,
        message=status.message,
        metadata=dict(info.metadata),
        retry_after_s=retry_after_s,
        field_violations=tuple(
            FieldViolation(v.field, v.description) for v in bad_request.field_violations
        ),
        quota_violations=tuple(QuotaViolation(v.subject, v.description) for v in quota.violations),
    )


def _parse(value: str | bytes) -> status_pb2.Status | None:
    if isinstance(value, str):
        return None
    try:
        return status_pb2.Status.FromString(value)
    except ValueError:  # DecodeError is one
        return None
