"""Spans of calls, over real gRPC; the SDK stands in for what services set up."""

import json
import logging

import grpc
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from caravan.model.v1 import model_service_pb2 as model_pb
from caravan.model.v1 import model_service_pb2_grpc as model_grpc
from caravan_rpckit.channel import open_channel
from caravan_rpckit.details import error_details
from caravan_rpckit.server import RpcServer
from caravan_rpckit.tracing import CallTracing, trace_metadata
from caravan_testkit.waiting import wait_until_async

GET = "caravan.model.v1.ModelService/GetModel"
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider.get_tracer("test")


@pytest.fixture
async def serve(servicer):
    """Starts servers with a tracing, and returns stubs that call them."""
    opened = []

    async def start(tracing, served=servicer):
        server = RpcServer("127.0.0.1:0", tracing=tracing)
        server.add(served, model_pb.DESCRIPTOR.services_by_name["ModelService"])
        await server.start()
        channel = open_channel(f"127.0.0.1:{server.port}")
        opened.append((server, channel))
        return model_grpc.ModelServiceStub(channel)

    yield start
    for server, channel in reversed(opened):
        await channel.close()
        await server.stop(0)


async def finished(exporter, count):
    """The spans, once there are so many: a client has its answer a moment before the span ends."""

    async def arrived():
        return len(exporter.get_finished_spans()) >= count

    await wait_until_async(arrived, timeout_s=10, what="spans")
    return exporter.get_finished_spans()


def get(model="m"):
    return model_pb.GetModelRequest(model=model)


async def test_a_call_goes_on_with_the_callers_trace(serve, tracer, exporter):
    stub = await serve(CallTracing(tracer))
    await stub.GetModel(get(), metadata=(("traceparent", TRACEPARENT), ("x-request-id", "r1")))
    (span,) = await finished(exporter, 1)
    assert (span.name, span.kind) == (GET, SpanKind.SERVER)
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == SPAN
    assert span.attributes["caravan.request_id"] == "r1"
    assert span.attributes["rpc.grpc.status_code"] == 0


@pytest.mark.parametrize("traceparent", ["", f"00-{'0' * 32}-{SPAN}-01"])
async def test_only_the_edge_begins_traces(serve, tracer, exporter, traceparent):
    inner = await serve(CallTracing(tracer))
    await inner.GetModel(get(), metadata=trace_metadata(traceparent))
    assert not exporter.get_finished_spans()

    edge = await serve(CallTracing(tracer, starts_traces=True))
    await edge.GetModel(get(), metadata=trace_metadata(traceparent))
    (span,) = await finished(exporter, 1)
    assert span.parent is None


async def test_calls_that_are_made_within_a_call_are_inside_its_span(serve, tracer, exporter):
    tracing = CallTracing(tracer, starts_traces=True)
    behind = await serve(tracing)

    class Edge:
        async def GetModel(self, request, call):
            with tracing.client_span(GET, name="ask") as traceparent:
                return await behind.GetModel(request, metadata=trace_metadata(traceparent))

        ListModels = LoadModel = UnloadModel = GetModel

    await (await serve(tracing, Edge())).GetModel(get())
    behind_span, ask, edge = await finished(exporter, 3)
    assert (ask.name, ask.kind) == ("ask", SpanKind.CLIENT)
    assert ask.parent.span_id == edge.context.span_id
    assert behind_span.parent.span_id == ask.context.span_id


async def test_a_refused_client_is_no_failure_of_the_span(serve, tracer, exporter):
    stub = await serve(CallTracing(tracer, starts_traces=True))
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.GetModel(get("missing"))
    (span,) = await finished(exporter, 1)
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes["error.type"] == "MODEL_NOT_FOUND"


async def test_a_crash_leaves_its_trace_id_with_the_client_and_nothing_of_itself_in_the_span(
    serve, tracer, exporter, caplog
):
    stub = await serve(CallTracing(tracer, starts_traces=True))
    with caplog.at_level(logging.INFO), pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetModel(get("crash"))
    (span,) = await finished(exporter, 1)
    trace_id = f"{span.context.trace_id:032x}"
    assert error_details(caught.value).metadata["trace_id"] == trace_id
    assert {r.trace_id for r in caplog.records if hasattr(r, "trace_id")} == {trace_id}
    assert span.status.status_code is StatusCode.ERROR
    assert "canary" not in json.dumps(json.loads(span.to_json()))


async def test_health_checks_have_no_spans(serve, tracer, exporter):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    server = RpcServer("127.0.0.1:0", tracing=CallTracing(tracer, starts_traces=True))
    await server.start()
    async with open_channel(f"127.0.0.1:{server.port}") as channel:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    await server.stop(0)
    assert not exporter.get_finished_spans()
