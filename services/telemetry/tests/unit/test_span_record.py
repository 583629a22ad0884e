from caravan_telemetry.domain.span_record import (
    SpanMoment,
    bounded_attributes,
    bounded_events,
    trace_of,
)


def names(trace):
    return [span.name for span in trace.spans]


def test_a_trace_is_what_served_the_call_and_all_within_it(make_span):
    spans = [
        make_span("other", request_id="r2"),
        make_span("decode", parent="run", start_ns=4),
        make_span("call", parent="client", request_id="r1", start_ns=2),
        make_span("run", parent="call", request_id="r1", start_ns=3),
        make_span("within-other", parent="other"),
    ]
    assert names(trace_of("r1", spans)) == ["call", "run", "decode"]


def test_calls_that_share_a_request_id_are_all_shown(make_span):
    spans = [make_span("a", request_id="r", trace_id="1" * 32), make_span("b", request_id="r")]
    assert len(trace_of("r", spans).spans) == 2


def test_spans_of_other_traces_are_not_mixed_in(make_span):
    spans = [make_span("a", request_id="r"), make_span("b", parent="a", trace_id="1" * 32)]
    assert names(trace_of("r", spans)) == ["a"]


def test_spans_that_are_within_each_other_end(make_span):
    spans = [make_span("a", parent="b", request_id="r"), make_span("b", parent="a")]
    assert sorted(names(trace_of("r", spans))) == ["a", "b"]


def test_a_long_trace_is_cut_and_says_so(make_span):
    spans = [make_span("root", request_id="r")]
    spans += [make_span(f"s{n}", parent="root", start_ns=n + 10) for n in range(5)]
    cut = trace_of("r", spans, most=3)
    assert len(cut.spans) == 3
    assert cut.truncated
    assert not trace_of("r", spans).truncated


def test_a_span_needs_ids_and_times(make_span):
    assert make_span("a").is_sound
    for changes in (
        {"trace_id": ""},
        {"trace_id": "0" * 32},
        {"span_id": ""},
        {"start_ns": 0},
        {"start_ns": 2**63},
        {"duration_ns": 2**63},
    ):
        assert not make_span("a", **changes).is_sound


def test_what_is_too_much_is_cut():
    attributes = bounded_attributes((f"{n}" * 400, "v" * 5_000) for n in range(200))
    assert len(attributes) == 64
    assert {len(value) for value in attributes.values()} == {1_024}
    assert max(map(len, attributes)) == 256
    assert len(bounded_events([SpanMoment("e" * 500, 1)] * 100)) == 64
