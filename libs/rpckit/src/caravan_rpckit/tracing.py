"""Trace context of calls between processes, and the spans of calls that are served and made.

Speaks W3C trace context and OpenTelemetry's API; owns no SDK and sends nothing. No span ever holds
anything of a message, nor the text of an exception, which may quote one.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import grpc.aio
from opentelemetry.context import Context, attach
from opentelemetry.trace import (
    INVALID_SPAN,
    NonRecordingSpan,
    NoOpTracer,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from caravan_rpckit.details import error_details

TRACEPARENT_KEY = "traceparent"
REQUEST_ID_ATTRIBUTE = "caravan.request_id"
ERROR_TYPE_ATTRIBUTE = "error.type"
_STATUS_CODE_ATTRIBUTE = "rpc.grpc.status_code"

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_FORBIDDEN_VERSION = "ff"
# What a server itself is to blame for; a refused client is no failure of the work.
_SERVER_FAULTS = frozenset(
    {
        *(grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED),
        *(grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL),
        *(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS),
    }
)


def parse_traceparent(text: str) -> SpanContext | None:
    """Reads a `traceparent`; None for one that the specification calls invalid."""
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == _FORBIDDEN_VERSION or (version == "00" and rest):
        return None
    sampled = TraceFlags(int(flags, 16) & TraceFlags.SAMPLED)
    context = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=sampled)
    return context if context.is_valid else None


def traceparent_of(span: Span) -> str:
    """The `traceparent` of what is done within `span`; empty where there is no trace."""
    context = span.get_span_context()
    if not context.is_valid:
        return ""
    sampled = context.trace_flags & TraceFlags.SAMPLED
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{sampled:02x}"


def trace_metadata(traceparent: str) -> tuple[tuple[str, str], ...]:
    """The metadata that says it; none where there is no trace."""
    return ((TRACEPARENT_KEY, traceparent),) if traceparent else ()


@dataclass(frozen=True, slots=True)
class CallTracing:
    """How a process traces its calls.

    Attributes:
        tracer: makes the spans.
        starts_traces: whether a call that comes without trace context begins a trace; where it
            doesn't, such a call has no span.
    """

    tracer: Tracer
    starts_traces: bool = False

    @contextmanager
    def client_span(self, method: str, *, name: str = "") -> Iterator[str]:
        """Traces a call to another service, as a part of what is going on here.

        Yields the `traceparent` to send along, empty outside of any trace. Let the call's own
        exception pass through. The span is named after the method where no name is given.
        """
        if not get_current_span().get_span_context().is_valid:
            yield ""
            return
        span = self.tracer.start_span(
            name or method,
            kind=SpanKind.CLIENT,
            attributes={"rpc.system": "grpc", "rpc.method": method},
        )
        try:
            yield traceparent_of(span)
        except BaseException as error:
            note_client_failure(span, error)
            raise
        finally:
            span.end()


UNTRACED = CallTracing(NoOpTracer())
"""Makes no spans, and still hands on the trace context of the call in progress."""


class CallTrace:
    """The trace of one call that is served. Belongs to the call's task."""

    __slots__ = ("_method", "_start_time_ns", "_tracing", "span")

    def __init__(self, tracing: CallTracing | None, method: str) -> None:
        self.span: Span = INVALID_SPAN
        self._tracing = tracing
        self._method = method
        self._start_time_ns = time.time_ns()

    @property
    def tracer(self) -> Tracer:
        """Makes spans inside of the call's own."""
        return UNTRACED.tracer if self._tracing is None else self._tracing.tracer

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits; empty where there is no trace."""
        context = self.span.get_span_context()
        return f"{context.trace_id:032x}" if context.is_valid else ""

    def begin(self, traceparent: str) -> None:
        """Makes the call a part of the caller's trace, or of a new one, since its arrival.

        From then on spans that the call's task makes are inside the call's own.
        """
        remote = parse_traceparent(traceparent)
        tracing = self._tracing
        if tracing is None or (remote is None and not tracing.starts_traces):
            if remote is not None:
                self._make_current(NonRecordingSpan(remote))
            return
        parent = Context()  # not the current one: nothing around the call is its parent
        if remote is not None:
            parent = set_span_in_context(NonRecordingSpan(remote), parent)
        span = tracing.tracer.start_span(
            self._method,
            parent,
            SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.method": self._method},
            start_time=self._start_time_ns,
        )
        self._make_current(span)

    def end(self, code: grpc.StatusCode, reason: str, request_id: str) -> None:
        """Says how the call ended."""
        span = self.span
        if not span.is_recording():
            return
        span.set_attribute(REQUEST_ID_ATTRIBUTE, request_id)
        span.set_attribute(_STATUS_CODE_ATTRIBUTE, code.value[0])
        if code is not grpc.StatusCode.OK:
            span.set_attribute(ERROR_TYPE_ATTRIBUTE, reason or code.name)
            if code in _SERVER_FAULTS:
                span.set_status(StatusCode.ERROR)
        span.end()

    def _make_current(self, span: Span) -> None:
        self.span = span
        attach(set_span_in_context(span))  # never detached: gRPC gives each call its own task


def note_client_failure(span: Span, error: BaseException) -> None:
    """Notes on the span of a call that was made how it failed."""
    if not span.is_recording():
        return
    if isinstance(error, grpc.aio.AioRpcError):
        details = error_details(error)
        span.set_attribute(_STATUS_CODE_ATTRIBUTE, error.code().value[0])
        span.set_attribute(
            ERROR_TYPE_ATTRIBUTE, details.reason if details is not None else error.code().name
        )
    elif isinstance(error, asyncio.CancelledError | GeneratorExit):
        span.set_attribute(ERROR_TYPE_ATTRIBUTE, grpc.StatusCode.CANCELLED.name)
    else:
        span.set_attribute(ERROR_TYPE_ATTRIBUTE, type(error).__name__)
    span.set_status(StatusCode.ERROR)
