"""The calls of `caravan.telemetry.v1.TraceQueryService`."""

from functools import partial

from caravan.telemetry.v1 import span_pb2 as span_pb
from caravan.telemetry.v1 import trace_query_service_pb2 as service_pb
from caravan_client.operations.operation import Operation, fill, operation
from caravan_client.operations.timestamps import time_of
from caravan_client.resources import Span, SpanEvent, SpanKind, SpanStatus, Trace

_SERVICE = "/caravan.telemetry.v1.TraceQueryService/"

_KINDS = {
    span_pb.SPAN_KIND_INTERNAL: SpanKind.INTERNAL,
    span_pb.SPAN_KIND_SERVER: SpanKind.SERVER,
    span_pb.SPAN_KIND_CLIENT: SpanKind.CLIENT,
}
_STATUSES = {
    span_pb.SPAN_STATUS_UNSPECIFIED: SpanStatus.UNSET,
    span_pb.SPAN_STATUS_OK: SpanStatus.OK,
    span_pb.SPAN_STATUS_ERROR: SpanStatus.ERROR,
}


def get_trace(request_id: str) -> Operation[Trace]:
    """Asks for the spans of a call."""
    request = service_pb.GetTraceRequest()
    fill(request, request_id=request_id)
    return operation(
        f"{_SERVICE}GetTrace",
        request,
        service_pb.GetTraceResponse,
        partial(_parse_trace, request_id),
    )


def _parse_trace(request_id: str, response: service_pb.GetTraceResponse) -> Trace:
    return Trace(
        request_id=request_id,
        spans=tuple(_parse_span(span) for span in response.spans),
        truncated=response.truncated,
    )


def _parse_span(span: span_pb.Span) -> Span:
    return Span(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_span_id,
        service=span.service,
        name=span.name,
        kind=_KINDS.get(span.kind, SpanKind.UNKNOWN),
        start_time=time_of(span, "start_time"),
        duration_ms=span.duration_ms,
        status=_STATUSES.get(span.status, SpanStatus.UNKNOWN),
        attributes=dict(span.attributes),
        events=tuple(SpanEvent(event.name, time_of(event, "time")) for event in span.events),
    )
