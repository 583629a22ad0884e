"""What the failure of a call to another service means here."""

import grpc
import grpc.aio

from caravan_gateway.domain.errors import (
    CallerDeadlineError,
    DependencyUnavailableError,
    InvalidCredentialError,
    KeyExpiredError,
    KeyRevokedError,
    WorkerDiedError,
)
from caravan_gateway.domain.failover import Loss
from caravan_gateway.domain.usage import Outcome
from caravan_rpckit.details import error_details
from caravan_rpckit.errors import CaravanError, Reason
from caravan_rpckit.status import CODE_OF_REASON

# How gRPC reports that the process at the other end is gone.
_GONE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})
# And that a stream broke, as it also may; workers have words for failures of their own.
_BROKEN = _GONE | {grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL}
# What workers say that have to be replaced by another one.
_LOSSES: dict[str, Loss] = {
    Reason.WORKER_DIED: Loss.REPLACED,
    Reason.DRAINING: Loss.LEAVING,
    Reason.QUEUE_FULL: Loss.FULL,
}
_REFUSED_CREDENTIALS: dict[str, type[CaravanError]] = {
    Reason.INVALID_CREDENTIAL: InvalidCredentialError,
    Reason.KEY_EXPIRED: KeyExpiredError,
    Reason.KEY_REVOKED: KeyRevokedError,
}


def credential_refusal(error: grpc.aio.AioRpcError) -> Exception:
    """What policy's answer to a credential means for the client."""
    details = error_details(error)
    refusal = None if details is None else _REFUSED_CREDENTIALS.get(details.reason)
    if refusal is not None:
        return refusal()  # type: ignore[call-arg]  # these three take no arguments
    return control_failure(error, "policy")


def control_failure(error: grpc.aio.AioRpcError, service: str) -> Exception:
    """What a failed call of our own to `service` means; its inner errors are not the client's."""
    details = error_details(error)
    if details is not None and error.code() is not grpc.StatusCode.INTERNAL:
        retry_after_s = details.retry_after_s
        return DependencyUnavailableError(service, retry_after_s or 1.0)
    if error.code() in {*_GONE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNKNOWN}:
        return DependencyUnavailableError(service)
    return error


def forwarding_failure(error: grpc.aio.AioRpcError, service: str) -> Exception:
    """What the failure of a passed-on call means: a service's own words pass unchanged."""
    if error_details(error) is None and error.code() in _GONE:
        return DependencyUnavailableError(service)
    return error


def loss_of(error: BaseException) -> Loss | None:
    """How a call lost its worker by `error`; None where the worker answered the call with it."""
    if isinstance(error, WorkerDiedError):
        return Loss.DIED
    details = error_details(error) if isinstance(error, grpc.aio.AioRpcError) else None
    return None if details is None else _LOSSES.get(details.reason)


def worker_failure(error: grpc.aio.AioRpcError, model: str) -> Exception:
    """What the failure of a run means: a worker's own words pass unchanged."""
    if error_details(error) is None and error.code() in _BROKEN:
        return WorkerDiedError(model)
    return error


def outcome_of(error: BaseException) -> Outcome:
    """The code and reason that the client sees for `error`."""
    if isinstance(error, grpc.aio.AioRpcError):
        return _upstream_outcome(error)
    reason = error.reason if isinstance(error, CaravanError) else Reason.INTERNAL
    return Outcome(_number(CODE_OF_REASON[reason]), reason)


def _upstream_outcome(error: grpc.aio.AioRpcError) -> Outcome:
    details = error_details(error)
    if details is not None:
        return Outcome(_number(error.code()), details.reason)
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return outcome_of(CallerDeadlineError())
    return Outcome(_number(grpc.StatusCode.INTERNAL), Reason.INTERNAL)


def _number(code: grpc.StatusCode) -> int:
    number: int = code.value[0]
    return number
