import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import INVALID_SPAN

from caravan_engine.domain.events import Completed, Delta, Started, Timings
from caravan_engine.runtime.run_trace import RunTrace

S = 1_000_000_000
STARTED = Started(input_tokens=7, cached_tokens=3)
DELTA = Delta(0, "canary", (1, 2), 0)
COMPLETED = Completed(7, 3, 5, Timings(queue_s=1.0, prefill_s=2.0, decode_s=3.0))


class Clock:
    """Nanoseconds that pass by one second each time they are asked for."""

    def __init__(self):
        self.now_ns = 100 * S

    def __call__(self):
        self.now_ns += S
        return self.now_ns


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def tracer(exporter):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider.get_tracer("test")


@pytest.fixture
def run(tracer, exporter):
    """Shows events to a trace and returns its spans by name: start and end after arrival."""

    def show(*events):
        call = tracer.start_span("call")
        trace = RunTrace(tracer, call, now_ns=Clock())
        for event in events:
            trace.saw(event)
        trace.end()
        call.end()
        spans = {span.name: span for span in exporter.get_finished_spans()}
        arrived = 101 * S
        times = {
            name: ((span.start_time - arrived) / S, (span.end_time - arrived) / S)
            for name, span in spans.items()
            if name != "call"
        }
        return spans, times

    return show


def test_a_whole_request_has_the_times_that_the_decode_thread_measured(run):
    spans, times = run(STARTED, DELTA, DELTA, COMPLETED)
    assert times == {"queue": (0, 1), "prefill": (1, 3), "decode": (3, 6)}
    assert all(spans[name].parent == spans["call"].context for name in times)
    assert spans["prefill"].attributes["gen_ai.usage.cache_read.input_tokens"] == 3
    assert spans["decode"].attributes["gen_ai.usage.output_tokens"] == 5


def test_the_first_token_is_a_moment_of_the_call(run):
    spans, _ = run(STARTED, DELTA, COMPLETED)
    (event,) = spans["call"].events
    assert (event.name, event.timestamp) == ("first_token", 104 * S)


def test_a_request_that_left_the_queue_for_nothing_only_waited(run):
    _, times = run()
    assert times == {"queue": (0, 1)}


def test_a_request_that_ended_in_prefill_has_no_decode(run):
    _, times = run(STARTED)
    assert times == {"queue": (0, 1), "prefill": (1, 2)}


def test_a_request_that_ended_in_decode_ends_when_it_ended(run):
    _, times = run(STARTED, DELTA, DELTA)
    assert times == {"queue": (0, 1), "prefill": (1, 2), "decode": (2, 3)}


def test_nothing_of_the_text_is_in_the_spans(run):
    spans, _ = run(STARTED, DELTA, COMPLETED)
    assert not any("canary" in span.to_json() for span in spans.values())


def test_outside_of_a_recorded_trace_there_are_no_spans(tracer, exporter):
    trace = RunTrace(tracer, INVALID_SPAN)
    trace.saw(STARTED)
    trace.end()
    assert not exporter.get_finished_spans()
