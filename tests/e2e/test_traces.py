"""One call is one trace over all processes, from the client to the worker."""

import json
import os
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from opentelemetry import trace as otel
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp_pb
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from caravan_client import (
    Caravan,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    SpanStatus,
)
from caravan_testkit.network import free_port
from caravan_testkit.stack import Stack, running_stack
from caravan_testkit.waiting import wait_until

PROMPT = "zebracanary47 Once upon a time"
CANARY = "zebracanary47"
BIN = Path(sys.executable).parent


class Collector:
    """A collector of OTLP spans, in this process."""

    def __init__(self):
        self.requests = []
        self._port = free_port()
        self._server = grpc.server(ThreadPoolExecutor(max_workers=2))
        handler = grpc.unary_unary_rpc_method_handler(
            self._export,
            request_deserializer=otlp_pb.ExportTraceServiceRequest.FromString,
            response_serializer=otlp_pb.ExportTraceServiceResponse.SerializeToString,
        )
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        generic = grpc.method_handlers_generic_handler(service, {"Export": handler})
        self._server.add_generic_rpc_handlers((generic,))
        self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        self._server.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._port}"

    def spans(self, trace_id):
        """Service and name of each span of a trace."""
        return {
            (part.resource.attributes[0].value.string_value, span.name)
            for request in tuple(self.requests)
            for part in request.resource_spans
            for scope in part.scope_spans
            for span in scope.spans
            if span.trace_id.hex() == trace_id
        }

    def stop(self):
        self._server.stop(None).wait()

    def _export(self, request, context):
        self.requests.append(request)
        return otlp_pb.ExportTraceServiceResponse()


@pytest.fixture(scope="module")
def collector():
    collector = Collector()
    yield collector
    collector.stop()


@pytest.fixture(scope="module")
def traced_stack(tmp_path_factory, collector):
    """A deployment of its own, whose spans also go to the collector."""
    settings = {
        "CARAVAN_TELEMETRY__TRACES__FORWARD_URL": collector.url,
        "CARAVAN_GATEWAY__POLICY__CACHE_TTL_S": "0",
    }
    with running_stack(tmp_path_factory.mktemp("traces") / "home", settings) as stack:
        yield stack


@pytest.fixture
def client(traced_stack):
    with Caravan(traced_stack.address, api_key=traced_stack.admin_key) as client:
        yield client


@pytest.fixture(scope="module")
def program_spans():
    """What this program's own tracing records, as a user would have set it up.

    Not as the global provider, which can't be taken back: later tests are of programs without.
    """
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("opentelemetry.trace.get_tracer", provider.get_tracer)
        yield exporter


def trace_of(client, request_id, *, spans):
    """The trace of a call, once it has so many spans."""
    found = []

    def arrived():
        try:
            found.append(client.trace(request_id))
        except NotFoundError:
            return False
        return len(found[-1].spans) >= spans

    wait_until(arrived, timeout_s=15, what="the spans")
    return found[-1]


def generate(client, **options):
    request_id = uuid.uuid4().hex
    client.generate(PROMPT, model="bundled", max_output_tokens=8, request_id=request_id, **options)
    return request_id


def tree(trace):
    """Each span's service and name, with those of its parent."""
    by_id = {span.span_id: span for span in trace.spans}
    result = {}
    for span in trace.spans:
        parent = by_id.get(span.parent_span_id)
        name = (span.service, span.name.rpartition(".")[2])
        result[name] = parent and (parent.service, parent.name.rpartition(".")[2])
    return result


def test_one_call_is_one_trace_over_all_processes(client, program_spans):
    with otel.get_tracer("program").start_as_current_span("work") as work:
        request_id = generate(client)
    trace = trace_of(client, request_id, spans=12)

    own = {span.name: span for span in program_spans.get_finished_spans()}
    client_span = own["text_completion bundled"]
    assert client_span.parent.span_id == work.get_span_context().span_id
    (trace_id,) = {span.trace_id for span in trace.spans}
    assert int(trace_id, 16) == work.get_span_context().trace_id
    (root,) = [s for s in trace.spans if s.name == "text_completion bundled"]
    assert int(root.parent_span_id, 16) == client_span.get_span_context().span_id

    call = ("gateway", "text_completion bundled")
    run = ("engine-worker", "WorkerService/Run")
    authenticate = "AuthenticationService/Authenticate"
    check = "AuthorizationService/CheckPermission"
    parents = tree(trace)
    assert (
        parents.items()
        >= {
            call: None,
            ("gateway", "authenticate"): call,
            ("gateway", "authorize"): call,
            ("gateway", "stream"): call,
            run: ("gateway", "stream"),
            ("engine-worker", "queue"): run,
            ("engine-worker", "prefill"): run,
            ("engine-worker", "decode"): run,
        }.items()
    )
    assert parents["policy", authenticate] == ("gateway", authenticate)
    assert parents["policy", check] == ("gateway", check)


def test_the_span_of_a_generation_says_what_was_asked_for_and_what_came(client):
    trace = trace_of(client, generate(client, seed=2**64 - 1), spans=12)
    (root,) = [span for span in trace.spans if span.name == "text_completion bundled"]

    said = root.attributes
    assert said["gen_ai.operation.name"] == "text_completion"
    assert said["gen_ai.request.model"] == "bundled"
    assert said["gen_ai.request.max_tokens"] == "8"
    assert said["gen_ai.request.seed"] == str(2**64 - 1)
    assert said["gen_ai.usage.output_tokens"] == "8"
    assert json.loads(said["gen_ai.response.finish_reasons"]) == ["length"]
    assert [event.name for event in root.events] == ["first_token"]


def test_a_failed_call_says_why(client):
    request_id = uuid.uuid4().hex
    with pytest.raises(NotFoundError):
        client.generate("a", model="nobody", request_id=request_id)
    trace = trace_of(client, request_id, spans=1)
    (root,) = [span for span in trace.spans if span.kind == "server" and span.service == "gateway"]
    assert root.attributes["error.type"] == "MODEL_NOT_FOUND"
    assert root.status is SpanStatus.UNSET  # the client's mistake, not the gateway's


def test_invalid_trace_context_is_replaced(client):
    request_id = generate(client, traceparent=f"00-{'0' * 32}-{'1' * 16}-01")
    (trace_id,) = {span.trace_id for span in trace_of(client, request_id, spans=12).spans}
    assert set(trace_id) != {"0"}


def test_no_span_and_no_log_holds_prompt_or_key(client, traced_stack, collector):
    trace = trace_of(client, generate(client, stop=[f"{CANARY}-stop"]), spans=12)
    (trace_id,) = {span.trace_id for span in trace.spans}
    forwarded = [
        request
        for request in collector.requests
        if bytes.fromhex(trace_id) in bytes(request.SerializeToString())
    ]
    shown = (
        repr(trace)
        + repr(forwarded)
        + "".join(
            traced_stack.log_path(name).read_text() for name in ("gateway", "engine", "telemetry")
        )
    )
    database = (traced_stack.home / "telemetry" / "telemetry.db").read_bytes()
    database += (traced_stack.home / "telemetry" / "telemetry.db-wal").read_bytes()
    for secret in (CANARY, traced_stack.admin_key):
        assert secret not in shown
        assert secret.encode() not in database


def test_log_lines_name_the_trace(client, traced_stack):
    trace = trace_of(client, generate(client), spans=12)
    (trace_id,) = {span.trace_id for span in trace.spans}
    for service in ("gateway", "policy", "engine"):
        lines = [json.loads(x) for x in traced_stack.log_path(service).read_text().splitlines()]
        assert any(line.get("trace_id") == trace_id for line in lines), service


def test_calls_that_are_passed_on_are_traced_too(client):
    request_id = uuid.uuid4().hex
    client.models.list(request_id=request_id)
    parents = tree(trace_of(client, request_id, spans=7))
    assert parents["engine", "ModelService/ListModels"] == ("gateway", "ModelService/ListModels")


def test_spans_are_passed_on_to_another_collector(client, collector):
    trace = trace_of(client, generate(client), spans=12)
    (trace_id,) = {span.trace_id for span in trace.spans}
    expected = {(span.service, span.name) for span in trace.spans}
    wait_until(
        lambda: collector.spans(trace_id) >= expected, timeout_s=15, what="spans at the collector"
    )


def test_reading_traces_needs_the_permission(client, traced_stack):
    client.principals.create("tracer", roles=["user"])
    key = client.keys.create("tracer").secret
    with Caravan(traced_stack.address, api_key=key) as user, pytest.raises(PermissionDeniedError):
        user.trace("some-request")


def test_the_command_draws_the_waterfall(client, traced_stack):
    request_id = generate(client)
    trace_of(client, request_id, spans=12)
    drawn = caravan(traced_stack, "trace", request_id)
    for text in (request_id, "gateway", "authenticate", "engine-worker", "decode", "█"):
        assert text in drawn
    document = json.loads(caravan(traced_stack, "trace", request_id, "--json"))
    assert len(document["spans"]) >= 12


def test_a_call_that_nobody_made_has_no_trace(client):
    with pytest.raises(NotFoundError):
        client.trace("no-such-request")


def test_a_request_id_must_look_like_one(client):
    with pytest.raises(InvalidRequestError):
        client.trace("no id")


def caravan(stack: Stack, *arguments: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CARAVAN_")}
    environment |= {"CARAVAN_HOME": str(stack.home), "CARAVAN_ADDRESS": stack.address}
    result = subprocess.run(
        [str(BIN / "caravan"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
