import re
import subprocess
import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from caravan_client import tracing
from caravan_client.errors import ErrorDetails, NotFoundError
from caravan_client.tracing import CallTrace

METHOD = "/caravan.inference.v1.InferenceService/Generate"
DRAWN = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00")


@pytest.fixture
def exporter(monkeypatch):
    """A program that has set up tracing."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("opentelemetry.trace.get_tracer", provider.get_tracer)
    return exporter


@pytest.fixture
def untraced(monkeypatch):
    """A program that has not."""
    monkeypatch.delitem(sys.modules, "opentelemetry.trace", raising=False)


def test_without_tracing_a_context_is_drawn_and_kept_over_attempts(untraced):
    trace = CallTrace("chat m", METHOD, None)
    first = trace.begin()
    assert DRAWN.fullmatch(first)
    assert trace.begin() == first
    trace.end()
    assert CallTrace("chat m", METHOD, None).begin() != first


def test_a_given_context_is_sent_as_it_is(exporter):
    trace = CallTrace("chat m", METHOD, "00-abc")
    assert trace.begin() == "00-abc"
    trace.end()
    assert not exporter.get_finished_spans()


def test_a_traced_program_gets_a_span_which_is_the_one_that_is_sent(exporter):
    trace = CallTrace("chat m", METHOD, None)
    sent = trace.begin()
    trace.end(request_id="r1")
    trace.end(ValueError("late"))
    (span,) = exporter.get_finished_spans()
    assert sent == f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"
    assert span.name == "chat m"
    assert span.attributes["rpc.method"] == METHOD[1:]
    assert span.attributes["caravan.request_id"] == "r1"
    assert span.status.is_unset


def test_a_failure_is_told_by_its_kind_alone(exporter):
    trace = CallTrace("chat m", METHOD, None)
    trace.begin()
    trace.end(NotFoundError("canary", ErrorDetails(reason="MODEL_NOT_FOUND")))
    (span,) = exporter.get_finished_spans()
    assert span.attributes["error.type"] == "MODEL_NOT_FOUND"
    assert "canary" not in span.to_json()


def test_a_call_that_never_began_has_no_span(exporter):
    CallTrace("chat m", METHOD, None).end()
    assert not exporter.get_finished_spans()


def test_the_client_loads_no_opentelemetry_by_itself():
    program = (
        "import sys; from caravan_client import Caravan; "
        "c = Caravan('127.0.0.1:1', api_key='k', max_retries=0)\n"
        "try: c.status(timeout_s=1)\n"
        "except Exception: pass\n"
        "sys.exit(any(m.startswith('opentelemetry') for m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert done.returncode == 0
    assert tracing.TRACEPARENT_KEY == "traceparent"
