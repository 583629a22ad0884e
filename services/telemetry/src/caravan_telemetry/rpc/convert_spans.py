"""Between OpenTelemetry's wire format, the domain's spans, and those that clients read."""

import json
from collections.abc import Iterator, Mapping

from google.protobuf.timestamp_pb2 import Timestamp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service_pb
from opentelemetry.proto.common.v1 import common_pb2 as common_pb
from opentelemetry.proto.trace.v1 import trace_pb2 as trace_pb

from caravan.telemetry.v1 import span_pb2 as span_pb
from caravan.telemetry.v1 import trace_query_service_pb2 as query_pb
from caravan_rpckit.tracing import REQUEST_ID_ATTRIBUTE
from caravan_telemetry.domain.span_record import (
    MAX_REQUEST_ID_LENGTH,
    SpanKind,
    SpanMoment,
    SpanRecord,
    SpanStatus,
    Trace,
    bounded_attributes,
    bounded_events,
    bounded_text,
)

_SERVICE_NAME = "service.name"
_KINDS: Mapping[int, SpanKind] = {
    trace_pb.Span.SPAN_KIND_INTERNAL: SpanKind.INTERNAL,
    trace_pb.Span.SPAN_KIND_SERVER: SpanKind.SERVER,
    trace_pb.Span.SPAN_KIND_CLIENT: SpanKind.CLIENT,
}
_STATUSES: Mapping[int, SpanStatus] = {
    trace_pb.Status.STATUS_CODE_OK: SpanStatus.OK,
    trace_pb.Status.STATUS_CODE_ERROR: SpanStatus.ERROR,
}
_KINDS_TO: Mapping[SpanKind, "span_pb.SpanKind.ValueType"] = {
    SpanKind.OTHER: span_pb.SPAN_KIND_UNSPECIFIED,
    SpanKind.INTERNAL: span_pb.SPAN_KIND_INTERNAL,
    SpanKind.SERVER: span_pb.SPAN_KIND_SERVER,
    SpanKind.CLIENT: span_pb.SPAN_KIND_CLIENT,
}
_STATUSES_TO: Mapping[SpanStatus, "span_pb.SpanStatus.ValueType"] = {
    SpanStatus.UNSET: span_pb.SPAN_STATUS_UNSPECIFIED,
    SpanStatus.OK: span_pb.SPAN_STATUS_OK,
    SpanStatus.ERROR: span_pb.SPAN_STATUS_ERROR,
}


def span_records(request: trace_service_pb.ExportTraceServiceRequest) -> Iterator[SpanRecord]:
    """All spans of a request, bounded; nothing is refused here."""
    for resource_spans in request.resource_spans:
        service = ""
        for attribute in resource_spans.resource.attributes:
            if attribute.key == _SERVICE_NAME:
                service = bounded_text(attribute.value.string_value)
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield _span_record(span, service)


def get_trace_response(trace: Trace) -> query_pb.GetTraceResponse:
    """A trace as clients read it."""
    return query_pb.GetTraceResponse(
        spans=[_span_to(span) for span in trace.spans], truncated=trace.truncated
    )


def _span_record(span: trace_pb.Span, service: str) -> SpanRecord:
    attributes = bounded_attributes((a.key, _text(a.value)) for a in span.attributes)
    request_id = attributes.pop(REQUEST_ID_ATTRIBUTE, "")
    moments = [SpanMoment(event.name, event.time_unix_nano) for event in span.events]
    return SpanRecord(
        trace_id=span.trace_id.hex() if len(span.trace_id) == 16 else "",
        span_id=span.span_id.hex() if len(span.span_id) == 8 else "",
        parent_span_id=span.parent_span_id.hex() if len(span.parent_span_id) == 8 else "",
        request_id=request_id if len(request_id) <= MAX_REQUEST_ID_LENGTH else "",
        service=service,
        name=bounded_text(span.name),
        kind=_KINDS.get(span.kind, SpanKind.OTHER),
        start_ns=span.start_time_unix_nano,
        duration_ns=max(0, span.end_time_unix_nano - span.start_time_unix_nano),
        status=_STATUSES.get(span.status.code, SpanStatus.UNSET),
        attributes=attributes,
        events=bounded_events(moments),
    )


def _text(value: common_pb.AnyValue) -> str:
    plain = _plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)


def _plain(value: common_pb.AnyValue) -> object:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "int_value":
            return value.int_value
        case "double_value":
            return value.double_value
        case "array_value":
            return [_plain(item) for item in value.array_value.values]
        case _:  # the kinds that none of our services sends
            return ""


def _span_to(span: SpanRecord) -> span_pb.Span:
    attributes = dict(span.attributes)
    if span.request_id:
        attributes[REQUEST_ID_ATTRIBUTE] = span.request_id
    return span_pb.Span(
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent_span_id=span.parent_span_id,
        service=span.service,
        name=span.name,
        kind=_KINDS_TO[span.kind],
        start_time=_time_to(span.start_ns),
        duration_ms=span.duration_ns / 1e6,
        status=_STATUSES_TO[span.status],
        attributes=attributes,
        events=[
            span_pb.SpanEvent(name=event.name, time=_time_to(event.time_ns))
            for event in span.events
        ],
    )


def _time_to(time_ns: int) -> Timestamp:
    return Timestamp(seconds=time_ns // 1_000_000_000, nanos=time_ns % 1_000_000_000)
