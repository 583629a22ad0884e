"""Spans over the service's own port: who may send and read them, and what becomes of them."""

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp_pb
from opentelemetry.proto.common.v1 import common_pb2 as common_pb
from opentelemetry.proto.trace.v1 import trace_pb2 as trace_pb

from caravan.telemetry.v1 import span_pb2 as span_pb
from caravan.telemetry.v1 import trace_query_service_pb2 as query_pb
from caravan.telemetry.v1 import trace_query_service_pb2_grpc as query_grpc
from caravan_obskit.otlp import EXPORT_METHOD, TRACE_SERVICE
from caravan_rpckit.channel import open_channel
from caravan_rpckit.details import error_details
from caravan_rpckit.server import RpcServer
from caravan_rpckit.tls import TlsIdentity
from caravan_telemetry.app import TelemetryApp
from caravan_telemetry.config import TelemetrySettings, TraceSettings
from caravan_testkit.network import free_port
from caravan_testkit.waiting import wait_until_async


def attribute(key, **value):
    return common_pb.KeyValue(key=key, value=common_pb.AnyValue(**value))


def span(name="call", request_id="r1", **changes):
    values = {
        "trace_id": b"t" * 16,
        "span_id": name.encode().ljust(8, b"-")[:8],
        "name": name,
        "kind": trace_pb.Span.SPAN_KIND_SERVER,
        "start_time_unix_nano": 1_700_000_000_000_000_123,
        "end_time_unix_nano": 1_700_000_000_002_000_123,
        "attributes": [attribute("caravan.request_id", string_value=request_id)],
        **changes,
    }
    return trace_pb.Span(**values)


def request(*spans, service="gateway"):
    resource = {"attributes": [attribute("service.name", string_value=service)]}
    scopes = [trace_pb.ScopeSpans(spans=spans)]
    return otlp_pb.ExportTraceServiceRequest(
        resource_spans=[trace_pb.ResourceSpans(resource=resource, scope_spans=scopes)]
    )


def export(channel, message):
    return channel.unary_unary(
        EXPORT_METHOD,
        request_serializer=otlp_pb.ExportTraceServiceRequest.SerializeToString,
        response_deserializer=otlp_pb.ExportTraceServiceResponse.FromString,
    )(message)


def get_trace(channel, request_id):
    stub = query_grpc.TraceQueryServiceStub(channel)
    return stub.GetTrace(query_pb.GetTraceRequest(request_id=request_id))


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, error_details(caught.value)


@pytest.mark.parametrize("peer", ["gateway", "engine", "policy", "telemetry"])
async def test_every_service_may_send_spans(channel_as, peer):
    answer = await export(channel_as(peer), request(span()))
    assert not answer.partial_success.rejected_spans


async def test_a_span_is_shown_as_it_was_sent(channel_as):
    sent = span(
        attributes=[
            attribute("caravan.request_id", string_value="r1"),
            attribute("number", int_value=7),
            attribute("truth", bool_value=True),
            attribute("list", array_value={"values": [{"string_value": "a"}]}),
        ],
        parent_span_id=b"parent--",
        events=[{"name": "first_token", "time_unix_nano": 1_700_000_000_001_000_000}],
        status={"code": trace_pb.Status.STATUS_CODE_ERROR},
    )
    await export(channel_as("gateway"), request(sent))
    (shown,) = (await get_trace(channel_as("gateway"), "r1")).spans
    assert shown.service == "gateway"
    assert shown.parent_span_id == b"parent--".hex()
    assert shown.kind == span_pb.SPAN_KIND_SERVER
    assert shown.status == span_pb.SPAN_STATUS_ERROR
    assert shown.start_time.ToNanoseconds() == sent.start_time_unix_nano
    assert shown.duration_ms == 2.0
    assert dict(shown.attributes) == {
        "caravan.request_id": "r1",
        "number": "7",
        "truth": "true",
        "list": '["a"]',
    }
    assert [event.name for event in shown.events] == ["first_token"]


async def test_only_the_gateway_may_read(channel_as):
    code, details = await refusal(get_trace(channel_as("engine"), "r1"))
    assert (code, details.reason) == ("PERMISSION_DENIED", "PEER_NOT_ALLOWED")


@pytest.mark.parametrize(
    ("request_id", "expected"),
    [
        ("nobody", ("NOT_FOUND", "RESOURCE_NOT_FOUND")),
        ("", ("INVALID_ARGUMENT", "INVALID_FIELD")),
        ("a b", ("INVALID_ARGUMENT", "INVALID_FIELD")),
        ("x" * 129, ("INVALID_ARGUMENT", "INVALID_FIELD")),
    ],
)
async def test_what_is_not_there_is_refused(channel_as, request_id, expected):
    code, details = await refusal(get_trace(channel_as("gateway"), request_id))
    assert (code, details.reason) == expected


async def test_unusable_spans_are_counted_and_the_others_kept(channel_as, scrape):
    bad = [span("b1", trace_id=b"short"), span("b2", start_time_unix_nano=0)]
    answer = await export(channel_as("gateway"), request(span(), *bad))
    assert answer.partial_success.rejected_spans == 2
    assert len((await get_trace(channel_as("gateway"), "r1")).spans) == 1
    lines = await scrape()
    assert "caravan_spans_rejected_total 2.0" in lines
    assert "caravan_spans_stored_total 1.0" in lines


async def test_random_bytes_are_refused_and_the_service_lives_on(channel_as):
    code, details = await refusal(channel_as("gateway").unary_unary(EXPORT_METHOD)(b"\xff\xff"))
    assert (code, details.reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
    await export(channel_as("gateway"), request(span()))


class Collector:
    """A collector that can be away; serves without certificates."""

    def __init__(self):
        self.names = []
        self.port = free_port()
        self._server = None

    async def Export(self, message, call):
        for part in message.resource_spans:
            self.names += [s.name for scope in part.scope_spans for s in scope.spans]
        return otlp_pb.ExportTraceServiceResponse()

    async def start(self):
        self._server = RpcServer(f"127.0.0.1:{self.port}")
        self._server.add(self, TRACE_SERVICE)
        await self._server.start()

    async def stop(self):
        if self._server is not None:
            await self._server.stop(0)


@pytest.fixture
async def collector():
    collector = Collector()
    yield collector
    await collector.stop()


@pytest.fixture
def settings(settings, collector) -> TelemetrySettings:
    traces = TraceSettings(forward_url=f"http://127.0.0.1:{collector.port}")
    return settings.model_copy(update={"traces": traces})


async def test_spans_reach_another_collector_also_when_it_was_away(
    app, channel_as, collector, scrape
):
    await export(channel_as("gateway"), request(span("early")))  # answered all the same

    async def failed():
        lines = await scrape()
        return any(
            line.startswith("caravan_spans_forward_failures_total") and not line.endswith(" 0.0")
            for line in lines
        )

    await wait_until_async(failed, timeout_s=20, what="a failure")
    await collector.start()
    await export(channel_as("gateway"), request(span("late")))

    async def arrived():
        return collector.names == ["early", "late"]

    await wait_until_async(arrived, timeout_s=20, what="spans")


async def test_spans_outlive_a_restart(settings, channel_as, home, app):
    await export(channel_as("gateway"), request(span()))
    await app.drain()
    await app.stop()
    again = TelemetryApp(settings)
    await again.start()
    try:
        tls = TlsIdentity.in_home(home, "gateway")
        address = f"127.0.0.1:{again.rpc_port}"
        async with open_channel(address, tls=tls, server_name="telemetry") as channel:
            assert len((await get_trace(channel, "r1")).spans) == 1
    finally:
        await again.stop()
