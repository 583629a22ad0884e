import asyncio

import grpc
import grpc.aio
import pytest
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

from caravan_obskit import genai
from caravan_obskit.instruments import Instruments
from caravan_obskit.span_delivery import DeliveryLimits, SpanDelivery
from caravan_obskit.tracing import (
    Tracing,
    edge_sampler,
    inner_sampler,
    lost_spans_counter,
    no_sampler,
)
from caravan_rpckit.tracing import CallTrace, CallTracing

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
FAST = DeliveryLimits(queue_size=4, batch_size=2, interval_s=0.001)


class Receiver:
    """Takes batches, or refuses them with a code."""

    def __init__(self):
        self.batches = []
        self.codes = []
        self.arrived = asyncio.Event()

    async def __call__(self, batch):
        if self.codes:
            empty = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(self.codes.pop(0), empty, empty)
        self.batches.append(batch)
        self.arrived.set()


@pytest.fixture
def receiver():
    return Receiver()


@pytest.fixture
def lost():
    return []


@pytest.fixture
def delivery(receiver, lost):
    return SpanDelivery(receiver, FAST, on_lost=lambda count, cause: lost.append((count, cause)))


async def test_what_is_put_is_delivered_in_order_and_in_batches(delivery, receiver):
    for item in range(3):
        delivery.put(item)
    delivery.start()
    await asyncio.wait_for(receiver.arrived.wait(), 5)
    await delivery.close(1)
    assert receiver.batches == [[0, 1], [2]]


async def test_when_too_much_waits_the_oldest_goes_and_is_counted(delivery, receiver, lost):
    for item in range(6):
        delivery.put(item)
    await delivery.close(1)
    assert receiver.batches == [[2, 3], [4, 5]]
    assert lost == [(1, "queue_full")] * 2


async def test_a_receiver_that_is_away_gets_it_later(delivery, receiver, lost):
    receiver.codes = [grpc.StatusCode.UNAVAILABLE]
    delivery.put("a")
    delivery.start()
    await asyncio.wait_for(receiver.arrived.wait(), 10)
    await delivery.close(1)
    assert receiver.batches == [["a"]]
    assert not lost


async def test_what_is_refused_is_lost_and_counted(delivery, receiver, lost):
    receiver.codes = [grpc.StatusCode.UNIMPLEMENTED]
    for item in range(3):
        delivery.put(item)
    await delivery.close(1)
    assert receiver.batches == [[2]]
    assert lost == [(2, "refused")]


async def test_a_span_that_cannot_be_written_does_not_end_the_delivery(lost):
    requests = []

    async def deliver(request):
        requests.append(request)

    tracing = Tracing(
        "test",
        sampler=edge_sampler(1.0),
        limits=DeliveryLimits(batch_size=1),
        on_lost=lambda count, cause: lost.append((count, cause)),
    )
    tracing.start(deliver)
    tracing.tracer.start_span("huge", attributes={"number": 2**70}).end()
    tracing.tracer.start_span("sound").end()
    await tracing.close()
    assert lost == [(1, "refused")]
    assert len(requests) == 1


async def test_closing_waits_no_longer_than_it_may(lost):
    async def never(batch):
        await asyncio.Event().wait()

    delivery = SpanDelivery(never, FAST, on_lost=lambda count, cause: lost.append((count, cause)))
    delivery.put("a")
    delivery.start()
    await delivery.close(0.01)
    assert lost == [(1, "shutdown")]
    assert delivery.num_waiting == 0


async def test_lost_spans_show_in_the_metrics():
    instruments = Instruments()
    lost_spans_counter(instruments)(3, "refused")
    value = instruments.registry.get_sample_value(
        "caravan_tracing_spans_lost_total", {"cause": "refused"}
    )
    assert value == 3


def is_recorded(sampler, flags):
    tracing = Tracing("test", sampler=sampler)
    trace = CallTrace(CallTracing(tracing.tracer, starts_traces=True), "a.B/C")
    trace.begin("" if flags is None else f"00-{TRACE}-{SPAN}-{flags}")
    return trace.span.is_recording()


@pytest.mark.parametrize(
    ("sampler", "by_flags"),
    [
        (edge_sampler(1.0), {None: True, "00": True, "01": True}),
        (edge_sampler(0.0), {None: False, "00": False, "01": True}),
        (inner_sampler(), {None: False, "00": False, "01": True}),
        (no_sampler(), {None: False, "00": False, "01": False}),
    ],
    ids=["edge, all", "edge, none", "inner", "off"],
)
async def test_what_is_recorded(sampler, by_flags):
    assert {flags: is_recorded(sampler, flags) for flags in by_flags} == by_flags


async def test_a_call_that_is_not_recorded_still_has_a_trace_id():
    tracing = Tracing("test", sampler=no_sampler())
    trace = CallTrace(CallTracing(tracing.tracer, starts_traces=True), "a.B/C")
    trace.begin("")
    assert len(trace.trace_id) == 32


async def test_spans_are_written_in_opentelemetrys_format():
    requests = []

    async def deliver(request):
        requests.append(request)

    tracing = Tracing("gateway", sampler=edge_sampler(1.0), limits=FAST)
    tracing.start(deliver)
    outer = tracing.tracer.start_span("outer", kind=SpanKind.SERVER, start_time=1_000)
    inner = tracing.tracer.start_span("inner", set_span_in_context(outer), start_time=2_000)
    inner.set_attributes({"a": "x", "b": True, "c": 7, "d": 0.5, "e": ["y", "z"]})
    inner.add_event("moment", timestamp=2_500)
    inner.set_status(StatusCode.ERROR, "this text stays here")
    inner.end(3_000)
    outer.end(4_000)
    await tracing.close()

    spans = {}
    for request in requests:
        (part,) = request.resource_spans
        assert part.resource.attributes[0].value.string_value == "gateway"
        spans |= {span.name: span for span in part.scope_spans[0].spans}
    written = spans["inner"]
    assert written.parent_span_id == spans["outer"].span_id
    assert written.trace_id == spans["outer"].trace_id
    assert (written.start_time_unix_nano, written.end_time_unix_nano) == (2_000, 3_000)
    assert [event.name for event in written.events] == ["moment"]
    values = {attribute.key: attribute.value for attribute in written.attributes}
    assert values["b"].bool_value is True
    assert values["c"].int_value == 7
    assert [v.string_value for v in values["e"].array_value.values] == ["y", "z"]
    assert written.status.code == 2
    assert b"this text" not in written.SerializeToString()


async def test_long_texts_are_cut():
    requests = []

    async def deliver(request):
        requests.append(request)

    tracing = Tracing("gateway", sampler=edge_sampler(1.0))
    tracing.start(deliver)
    tracing.tracer.start_span("a", attributes={"long": "x" * 5_000}).end()
    await tracing.close()
    (attribute,) = requests[0].resource_spans[0].scope_spans[0].spans[0].attributes
    assert len(attribute.value.string_value) == 256


def test_a_seed_beyond_signed_numbers_is_a_text():
    assert genai.seed_value(2**63 - 1) == 2**63 - 1
    assert genai.seed_value(2**64 - 1) == "18446744073709551615"
    assert genai.span_name(genai.Operation.CHAT, "m") == "chat m"
