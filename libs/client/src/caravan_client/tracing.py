"""Takes part in traces: sends W3C trace context, and makes a span where the program is traced.

Imports no OpenTelemetry: a program that is traced has done so itself, and where it has not, a
trace context is drawn, so that all repetitions of a call are one trace.
"""

import secrets
import sys
from typing import TYPE_CHECKING

from caravan_client.errors import CaravanError

if TYPE_CHECKING:
    from opentelemetry.trace import Span

TRACEPARENT_KEY = "traceparent"
_INSTRUMENTATION = "caravan_client"


class CallTrace:
    """The trace of one call over all its attempts. Safe to end more than once."""

    def __init__(self, title: str, method: str, traceparent: str | None) -> None:
        """Prepares the trace.

        Args:
            title: what a span of the call is named.
            method: of the call.
            traceparent: the caller's own trace context, which is then sent as it is.
        """
        self._title = title
        self._method = method
        self._traceparent = traceparent or ""
        self._span: Span | None = None

    def begin(self) -> str:
        """Returns the `traceparent` to send; the span, if there is one, begins with the first."""
        if not self._traceparent:
            self._span = _start_span(self._title, self._method)
            self._traceparent = _drawn() if self._span is None else _of(self._span)
        return self._traceparent

    def end(self, error: BaseException | None = None, request_id: str | None = None) -> None:
        """Ends the span; says nothing of an error but its kind."""
        span, self._span = self._span, None
        if span is None:
            return
        if request_id is not None:
            span.set_attribute("caravan.request_id", request_id)
        if error is not None:
            _note(span, error)
        span.end()


def _start_span(title: str, method: str) -> "Span | None":
    """A span by the tracer that the program has set up, if it has."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from opentelemetry.trace import SpanKind, get_tracer

    span = get_tracer(_INSTRUMENTATION).start_span(
        title,
        kind=SpanKind.CLIENT,
        attributes={"rpc.system": "grpc", "rpc.method": method.removeprefix("/")},
    )
    return span if span.get_span_context().is_valid else None


def _note(span: "Span", error: BaseException) -> None:
    from opentelemetry.trace import StatusCode

    kind = error.reason if isinstance(error, CaravanError) else type(error).__name__
    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


def _of(span: "Span") -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags & 1:02x}"


def _drawn() -> str:
    """Marked as not recorded, which it isn't here: what is recorded is up to the gateway."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00"
