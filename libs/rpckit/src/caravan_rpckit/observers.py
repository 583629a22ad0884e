"""Who is told how each call ended."""

import logging
from dataclasses import dataclass
from typing import Protocol

import grpc

_log = logging.getLogger("caravan.calls")

_QUIET_PREFIXES = ("grpc.health.", "grpc.reflection.")


@dataclass(frozen=True, slots=True)
class CallRecord:
    """How one call ended."""

    method: str
    request_id: str
    peer: str | None
    code: grpc.StatusCode
    reason: str
    duration_s: float
    trace_id: str = ""


class CallObserver(Protocol):
    """Is told about each call; runs on the event loop, so it must not block."""

    def call_started(self, method: str) -> None:
        """A call of `method` begins."""

    def call_ended(self, record: CallRecord) -> None:
        """A call is over, whichever way."""


class LogObserver:
    """Writes one line per call at its end; health and reflection only when they fail."""

    def call_started(self, method: str) -> None:
        """Says nothing: a call is logged once, at its end."""

    def call_ended(self, record: CallRecord) -> None:
        """Writes the line; at WARNING where the service itself is to blame."""
        ok = record.code is grpc.StatusCode.OK
        if ok and record.method.startswith(_QUIET_PREFIXES):
            return
        level = logging.WARNING if record.code in _SERVER_FAULTS else logging.INFO
        _log.log(
            level,
            "call ended",
            extra={
                "method": record.method,
                "request_id": record.request_id,
                "trace_id": record.trace_id,
                "peer": record.peer,
                "code": record.code.name,
                "reason": record.reason,
                "duration_ms": round(record.duration_s * 1000, 3),
            },
        )


_SERVER_FAULTS = frozenset(
    {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
)
