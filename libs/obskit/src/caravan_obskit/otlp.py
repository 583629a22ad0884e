"""Writes finished spans in OpenTelemetry's wire format, and sends them over a channel of ours."""

from collections.abc import Iterable, Mapping, Sequence

import grpc.aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service_pb
from opentelemetry.proto.common.v1 import common_pb2 as common_pb
from opentelemetry.proto.resource.v1 import resource_pb2 as resource_pb
from opentelemetry.proto.trace.v1 import trace_pb2 as trace_pb
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.util.types import AttributeValue

TRACE_SERVICE = trace_service_pb.DESCRIPTOR.services_by_name["TraceService"]
EXPORT_METHOD = f"/{TRACE_SERVICE.full_name}/Export"

_SCOPE = common_pb.InstrumentationScope(name="caravan")
_KINDS: Mapping[SpanKind, "trace_pb.Span.SpanKind.ValueType"] = {
    SpanKind.INTERNAL: trace_pb.Span.SPAN_KIND_INTERNAL,
    SpanKind.SERVER: trace_pb.Span.SPAN_KIND_SERVER,
    SpanKind.CLIENT: trace_pb.Span.SPAN_KIND_CLIENT,
    SpanKind.PRODUCER: trace_pb.Span.SPAN_KIND_PRODUCER,
    SpanKind.CONSUMER: trace_pb.Span.SPAN_KIND_CONSUMER,
}

_STATUS_CODES: Mapping[StatusCode, "trace_pb.Status.StatusCode.ValueType"] = {
    StatusCode.UNSET: trace_pb.Status.STATUS_CODE_UNSET,
    StatusCode.OK: trace_pb.Status.STATUS_CODE_OK,
    StatusCode.ERROR: trace_pb.Status.STATUS_CODE_ERROR,
}


def export_request(
    spans: Sequence[ReadableSpan], resource: Mapping[str, str]
) -> trace_service_pb.ExportTraceServiceRequest:
    """One request with spans of one process, which `resource` describes."""
    return trace_service_pb.ExportTraceServiceRequest(
        resource_spans=[
            trace_pb.ResourceSpans(
                resource=resource_pb.Resource(attributes=_attributes(resource)),
                scope_spans=[
                    trace_pb.ScopeSpans(scope=_SCOPE, spans=[_span(span) for span in spans])
                ],
            )
        ]
    )


class OtlpSender:
    """Calls `TraceService/Export`."""

    def __init__(self, channel: grpc.aio.Channel, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._export: grpc.aio.UnaryUnaryMultiCallable[
            trace_service_pb.ExportTraceServiceRequest,
            trace_service_pb.ExportTraceServiceResponse,
        ] = channel.unary_unary(
            EXPORT_METHOD,
            request_serializer=trace_service_pb.ExportTraceServiceRequest.SerializeToString,
            response_deserializer=trace_service_pb.ExportTraceServiceResponse.FromString,
        )

    async def __call__(self, request: trace_service_pb.ExportTraceServiceRequest) -> None:
        """Sends one request.

        Raises:
            AioRpcError: it did not arrive, or was refused.
        """
        await self._export(request, timeout=self._timeout_s)


def _span(span: ReadableSpan) -> trace_pb.Span:
    context = span.get_span_context()
    if context is None:
        raise TypeError("a span that was recorded has a context")
    return trace_pb.Span(
        trace_id=context.trace_id.to_bytes(16, "big"),
        span_id=context.span_id.to_bytes(8, "big"),
        parent_span_id=span.parent.span_id.to_bytes(8, "big") if span.parent else b"",
        name=span.name,
        kind=_KINDS[span.kind],
        start_time_unix_nano=span.start_time or 0,
        end_time_unix_nano=span.end_time or 0,
        attributes=_attributes(span.attributes or {}),
        events=[
            trace_pb.Span.Event(
                name=event.name,
                time_unix_nano=event.timestamp,
                attributes=_attributes(event.attributes or {}),
            )
            for event in span.events
        ],
        status=trace_pb.Status(code=_STATUS_CODES[span.status.status_code]),
    )


def _attributes(values: Mapping[str, AttributeValue]) -> Iterable[common_pb.KeyValue]:
    return [common_pb.KeyValue(key=key, value=_value(value)) for key, value in values.items()]


def _value(value: AttributeValue) -> common_pb.AnyValue:
    match value:
        case str():
            return common_pb.AnyValue(string_value=value)
        case bool():
            return common_pb.AnyValue(bool_value=value)
        case int():
            return common_pb.AnyValue(int_value=value)
        case float():
            return common_pb.AnyValue(double_value=value)
        case bytes():
            return common_pb.AnyValue(bytes_value=value)
        case Sequence():
            items = [_value(item) for item in value]
            return common_pb.AnyValue(array_value=common_pb.ArrayValue(values=items))
        case _:  # nobody here sets the kinds that are left
            return common_pb.AnyValue()
