"""The gateway's spans, as telemetry gets them."""

import pytest
from gateway_client import KEY, events_of, failure_of, metric, ops, until

from caravan.telemetry.v1 import trace_query_service_pb2 as query_pb
from caravan.telemetry.v1 import trace_query_service_pb2_grpc as query_grpc
from caravan_gateway.config import TracingSettings

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CANARY = "canary-prompt-5f1c"


def named(telemetry, name):
    return [span for span in telemetry.spans if span.name == name]


def attributes(span):
    return {entry.key: entry.value for entry in span.attributes}


async def root_of(telemetry, name):
    await until(lambda: named(telemetry, name), "the call's span")
    return named(telemetry, name)[0]


def get_trace(client, request_id="r1"):
    stub = query_grpc.TraceQueryServiceStub(client.channel)
    return stub.GetTrace(query_pb.GetTraceRequest(request_id=request_id), metadata=client.metadata)


async def test_a_generation_has_its_span_with_stages_inside(client, telemetry):
    await events_of(client.stream("3", choice_count=1))
    root = await root_of(telemetry, "text_completion tiny")
    assert root.parent_span_id == b""
    inside = {span.name for span in telemetry.spans if span.parent_span_id == root.span_id}
    assert inside >= {"authenticate", "authorize", "stream"}
    said = attributes(root)
    assert said["gen_ai.request.model"].string_value == "tiny"
    assert said["gen_ai.usage.output_tokens"].int_value == 3
    assert said["gen_ai.request.stream"].bool_value is True
    assert said["gen_ai.request.choice.count"].int_value == 1
    assert [event.name for event in root.events] == ["first_token"]


async def test_the_worker_is_told_the_span_of_the_stream(client, telemetry, worker):
    await client.generate("1")
    await root_of(telemetry, "text_completion tiny")
    (stream,) = named(telemetry, "stream")
    expected = f"00-{stream.trace_id.hex()}-{stream.span_id.hex()}-01"
    assert worker.runs[0].caller.traceparent == expected


@pytest.mark.parametrize(
    ("traceparent", "goes_on"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", True),
        (f"00-{'0' * 32}-{SPAN}-01", False),
        ("'; DROP TABLE spans; --", False),
    ],
)
async def test_valid_trace_context_goes_on_and_the_rest_is_replaced(
    client, telemetry, traceparent, goes_on
):
    await client.generate("1", metadata=(*client.metadata, ("traceparent", traceparent)))
    root = await root_of(telemetry, "text_completion tiny")
    assert (root.trace_id.hex() == TRACE) is goes_on
    assert (root.parent_span_id.hex() == SPAN) is goes_on
    assert any(root.trace_id)


@pytest.mark.parametrize(
    ("tracing", "flags", "traced"),
    [
        ({"sample_ratio": 0.0}, "00", False),
        ({"sample_ratio": 0.0}, "01", True),
        ({"enabled": False}, "01", False),
    ],
)
async def test_what_is_traced_is_a_setting(
    start_gateway, client_of, telemetry, worker, tracing, flags, traced
):
    gateway = await start_gateway(tracing=TracingSettings(**tracing))
    client = client_of(gateway)
    metadata = (*client.metadata, ("traceparent", f"00-{TRACE}-{SPAN}-{flags}"))
    await client.generate("1", metadata=metadata)
    await gateway.stop()
    assert bool(telemetry.spans) is traced
    context = worker.runs[0].caller.traceparent  # the trace goes on, recorded or not
    assert context.startswith(f"00-{TRACE}-")
    assert context.endswith("-01" if traced else "-00")


async def test_nothing_of_prompt_stop_or_key_is_in_a_span(client, telemetry):
    await client.generate(CANARY, stop=[f"{CANARY}-stop"])
    await failure_of(client.generate("1", metadata=(("authorization", f"Bearer cvn_{CANARY}"),)))
    await until(lambda: len(named(telemetry, "text_completion tiny")) == 2, "both spans")
    everything = b"".join(span.SerializeToString() for span in telemetry.spans)
    assert CANARY.encode() not in everything
    assert KEY.encode() not in everything


async def test_a_trace_is_read_by_who_may_see_metrics(client, admin, policy, telemetry):
    code, details = await failure_of(get_trace(client))
    assert (code, details.metadata["permission"]) == ("PERMISSION_DENIED", "metrics")
    for key in policy.keys.values():
        key.permissions |= {"metrics"}
    answer = await get_trace(admin)
    assert [span.name for span in answer.spans] == ["call"]
    assert telemetry.questions == ["r1"]


async def test_while_telemetry_is_away_calls_go_on(client, telemetry):
    await telemetry.stop()
    for _ in range(3):
        await client.generate("1")
    await telemetry.start()
    await until(lambda: len(named(telemetry, "text_completion tiny")) == 3, "the spans")


async def test_generations_are_in_opentelemetrys_histograms(client, gateway):
    await events_of(client.stream("3"))
    await failure_of(client.stream("refuse"))
    labels = 'gen_ai_operation_name="text_completion",gen_ai_request_model="tiny"'
    for name, count in (("time_to_first_token", 1), ("time_per_output_token", 1)):
        assert await metric(gateway, f"gen_ai_server_{name}_seconds_count{{{labels}}}") == count
    _, body = await ops(gateway)
    durations = [line for line in body.splitlines() if "request_duration_seconds_count{e" in line]
    assert len(durations) == 2
    assert any('error_type=""' in line for line in durations)
