import pytest
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan

from caravan_rpckit.tracing import (
    UNTRACED,
    CallTrace,
    parse_traceparent,
    trace_metadata,
    traceparent_of,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_trace_context_comes_out_as_it_went_in():
    text = f"00-{TRACE}-{SPAN}-01"
    context = parse_traceparent(text)
    assert context.is_remote
    assert traceparent_of(NonRecordingSpan(context)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "garbage",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}",
    ],
)
def test_invalid_trace_context_is_none(text):
    assert parse_traceparent(text) is None


def test_a_newer_version_is_read_as_far_as_it_is_known():
    context = parse_traceparent(f"cc-{TRACE}-{SPAN}-ff-more")
    assert traceparent_of(NonRecordingSpan(context)) == f"00-{TRACE}-{SPAN}-01"


def test_outside_of_a_trace_there_is_nothing_to_send():
    assert traceparent_of(INVALID_SPAN) == ""
    assert trace_metadata("") == ()
    with UNTRACED.client_span("a.B/C") as traceparent:
        assert traceparent == ""


async def test_a_process_without_tracing_hands_trace_context_on():
    trace = CallTrace(None, "a.B/C")
    trace.begin(f"00-{TRACE}-{SPAN}-01")
    assert trace.trace_id == TRACE
    with UNTRACED.client_span("d.E/F") as traceparent:
        assert traceparent == f"00-{TRACE}-{SPAN}-01"
