import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from caravan_client.cli.waterfall import duration_text, rows, summary, table
from caravan_client.resources import Span, SpanEvent, SpanKind, SpanStatus, Trace

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def at(ms):
    return BEGIN + timedelta(milliseconds=ms)


def span(name, start_ms, duration_ms, parent="", **changes):
    values = {
        "trace_id": "t",
        "span_id": name,
        "parent_span_id": parent,
        "service": "gateway",
        "name": name,
        "kind": SpanKind.INTERNAL,
        "start_time": at(start_ms),
        "duration_ms": duration_ms,
        "status": SpanStatus.UNSET,
        "attributes": {},
        "events": (),
    }
    return Span(**{**values, **changes})


def trace(*spans):
    return Trace("r1", spans, truncated=False)


def layout(*spans, width=10):
    return [(row.work, row.depth, row.start, row.length) for row in rows(trace(*spans), width)]


def test_each_span_stands_under_its_parent_at_its_time():
    assert layout(
        span("call", 0, 100, parent="elsewhere"),
        span("first", 0, 20, parent="call"),
        span("second", 50, 50, parent="call"),
        span("inner", 10, 10, parent="first"),
    ) == [("call", 0, 0, 10), ("first", 1, 0, 2), ("inner", 2, 1, 1), ("second", 1, 5, 5)]


def test_a_moment_is_still_a_bar_and_none_leaves_the_picture():
    assert layout(span("a", 0, 100), span("b", 100, 0, parent="a"))[1] == ("b", 1, 9, 1)
    assert layout(span("a", 0, 0)) == [("a", 0, 0, 1)]


def test_methods_are_shown_without_their_package_and_calls_with_an_arrow():
    made = span("caravan.policy.v1.AuthenticationService/Authenticate", 0, 1, kind=SpanKind.CLIENT)
    assert layout(made)[0][0] == "→ AuthenticationService/Authenticate"


def test_spans_in_a_circle_do_not_hang():
    assert layout(span("a", 0, 1, parent="b"), span("b", 0, 1, parent="a")) == []


def test_spans_without_a_time_are_left_out():
    assert layout(span("a", 0, 1, start_time=None)) == []
    assert "r1" in summary(trace(span("a", 0, 1, start_time=None)))


def test_why_something_failed_is_shown():
    (known,) = rows(trace(span("a", 0, 1, attributes={"error.type": "MODEL_NOT_FOUND"})))
    (unknown,) = rows(trace(span("a", 0, 1, status=SpanStatus.ERROR)))
    assert (known.outcome, unknown.outcome) == ("MODEL_NOT_FOUND", "error")


def test_the_summary_tells_when_the_first_token_came():
    event = SpanEvent("first_token", at(250))
    text = summary(trace(span("call", 0, 1_500, events=(event,))))
    assert text == "request r1, trace t, 1 spans, 1.50 s, first token after 250.0 ms"


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [(0.0421, "42 µs"), (1, "1.0 ms"), (999.9, "999.9 ms"), (1500, "1.50 s")],
)
def test_durations_have_the_unit_that_suits(duration_ms, text):
    assert duration_text(duration_ms) == text


def test_names_from_a_server_cannot_steer_the_terminal():
    evil = span("\x1b]0;owned\x07call", 0, 1, service="\x1b[31mx")
    console = Console(file=io.StringIO(), width=200, no_color=True)
    console.print(table(trace(evil)))
    assert "\x1b" not in console.file.getvalue()
