"""What every adapter of `SpanStore` does."""

import pytest

from caravan_telemetry.domain.span_record import SpanMoment
from caravan_telemetry.storage.database import Database
from caravan_telemetry.storage.spans import SqlSpanStore


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    if request.param == "memory":
        yield request.getfixturevalue("span_store")
        return
    database = Database(tmp_path / "telemetry.db")
    yield SqlSpanStore(database)
    database.close()


def read(store, request_id, max_traces=20, max_spans=100):
    return list(store.of_request(request_id, max_traces=max_traces, max_spans=max_spans))


def test_a_span_comes_out_as_it_went_in(store, make_span):
    span = make_span(
        "naïve 😀",
        request_id="r",
        attributes={"a": "'; DROP TABLE spans; --", "b": "\x00"},
        events=(SpanMoment("first_token", 2**62),),
        start_ns=2**62,
        duration_ns=2**62,
    )
    assert store.add([span], 1) == 1
    assert read(store, "r") == [span]


def test_each_span_is_stored_once(store, make_span):
    assert store.add([make_span("a"), make_span("b")], 1) == 2
    assert store.add([make_span("a"), make_span("c"), make_span("c")], 2) == 1
    assert store.count() == 3
    assert store.add([], 3) == 0


def test_the_whole_trace_of_a_call_is_read_by_start(store, make_span):
    store.add(
        [
            make_span("late", start_ns=30),
            make_span("call", request_id="r", start_ns=10),
            make_span("other", trace_id="1" * 32, request_id="r2"),
        ],
        1,
    )
    assert [span.name for span in read(store, "r")] == ["call", "late"]
    assert [span.name for span in read(store, "r", max_spans=1)] == ["call"]
    assert read(store, "nobody") == []


def test_spans_that_serve_no_call_are_not_found_by_the_empty_id(store, make_span):
    store.add([make_span("a")], 1)
    assert read(store, "") == []


def test_of_many_traces_the_newest_are_read(store, make_span):
    for number in range(1, 6):
        store.add([make_span("a", trace_id=f"{number}" * 32, request_id="r", start_ns=number)], 1)
    assert [span.trace_id[0] for span in read(store, "r", max_traces=2)] == ["4", "5"]


def test_the_oldest_go_first(store, make_span):
    for time_ms in (30, 10, 20, 40):
        store.add([make_span(f"at-{time_ms}", request_id=f"r{time_ms}")], time_ms)
    assert store.remove_received_before(40, limit=1) == 1
    assert store.remove_oldest(1) == 1
    assert store.remove_received_before(40, limit=10) == 1
    assert store.remove_oldest(10) == 1
    assert store.count() == 0
    assert store.remove_oldest(10) == 0
