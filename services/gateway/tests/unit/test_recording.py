"""What is recorded of a call, and who waits until it is on disk."""

import asyncio
from contextlib import aclosing

import pytest
from noting_stage import Noting, read, two_events

from caravan_gateway.domain.admission import Keep, Record, Stage
from caravan_gateway.domain.errors import (
    CallerLeftError,
    DrainingError,
)
from caravan_gateway.domain.inference_facts import (
    CompletedFacts,
    DeltaFacts,
    FinishedFacts,
    StartedFacts,
)
from caravan_gateway.domain.usage import Outcome
from caravan_rpckit.errors import Reason


class Sink:
    def __init__(self, *, takes=True):
        self.records = []
        self.takes = takes
        self.num_waits = 0
        self.on_disk = asyncio.Event()
        self.on_disk.set()

    def record(self, usage):
        self.records.append(usage)
        return self.takes

    async def written(self):
        self.num_waits += 1
        await self.on_disk.wait()


def _record_stage(sink, fake_clock):
    return Record(sink, new_id=lambda: "id-1", clock=fake_clock)


async def test_a_record_says_what_was_used(make_call, make_identity, fake_clock):
    sink = Sink()
    call, _ = make_call()
    call.identity = make_identity()
    call.model, call.priority = "tiny", 7
    for facts in (
        StartedFacts("d1", 4, 1),
        DeltaFacts(0, 0, [5, 6]),
        DeltaFacts(1, 0, [5]),
        DeltaFacts(0, 2, [7]),
        FinishedFacts(1, "length", 1),
        FinishedFacts(0, "end_of_text", 3),
        CompletedFacts(4, 1, 4, 2.0),
    ):
        fake_clock.advance(0.1)
        call.progress.observe(facts, fake_clock())
    _record_stage(sink, fake_clock).settle(call)

    (record,) = sink.records
    assert (record.input_tokens, record.cached_tokens, record.output_tokens) == (4, 1, 4)
    assert record.finish_reasons == ("end_of_text", "length")
    assert record.time_to_first_token_ms == pytest.approx(200)
    assert record.duration_ms == pytest.approx(700)
    assert (record.queue_ms, record.model_digest) == (2.0, "d1")


async def test_a_record_of_an_interrupted_call_counts_what_was_sent(
    make_call, make_identity, fake_clock
):
    sink = Sink()
    call, _ = make_call()
    call.identity = make_identity()
    call.progress.observe(DeltaFacts(0, 0, [5, 6]), fake_clock())
    call.progress.observe(DeltaFacts(1, 3, [7, 8]), fake_clock())
    call.outcome = Outcome(1, "CANCELLED")
    _record_stage(sink, fake_clock).settle(call)
    (record,) = sink.records
    assert record.output_tokens == 7
    assert record.outcome.reason == "CANCELLED"


async def test_strangers_leave_no_record(make_call, fake_clock):
    sink = Sink()
    _record_stage(sink, fake_clock).settle(make_call()[0])
    assert not sink.records


class Known(Stage):
    name = "known"

    def __init__(self, identity):
        self._identity = identity

    async def admit(self, call):
        call.identity = self._identity


@pytest.fixture
def make_recording(make_pipeline, make_identity, fake_clock):
    """A pipeline of a caller who is known, and the sink of its records."""

    def make(events=two_events, *others, outcome_of=None, **options):
        sink = Sink()
        stages = (Known(make_identity()), Noting("run", [], events=events, **options), *others)
        named = {} if outcome_of is None else {"outcome_of": outcome_of}
        return make_pipeline(*stages, _record_stage(sink, fake_clock), **named), sink

    return make


async def test_the_last_event_waits_until_the_record_is_on_disk(make_recording, make_call):
    pipeline, sink = make_recording()
    sink.on_disk.clear()
    got = []

    async def read():
        async for event in pipeline.run(make_call()[0]):
            got.append(event.payload)

    reading = asyncio.create_task(read())
    async with asyncio.timeout(20):
        while not sink.num_waits:
            await asyncio.sleep(0)
    assert got == ["a"]
    sink.on_disk.set()
    await reading
    assert got == ["a", "b"]
    assert [each.outcome for each in sink.records] == [Outcome()]


async def test_an_error_waits_until_the_record_is_on_disk(make_recording, make_call, live_calls):
    pipeline, sink = make_recording(refusal=DrainingError())
    sink.on_disk.clear()
    reading = asyncio.create_task(read(pipeline, make_call()[0]))
    async with asyncio.timeout(20):
        while not sink.num_waits:
            await asyncio.sleep(0)
    assert not reading.done()
    assert len(live_calls) == 0  # what the call held is free meanwhile
    sink.on_disk.set()
    with pytest.raises(DrainingError):
        await reading
    assert [each.outcome.reason for each in sink.records] == ["DrainingError"]


async def test_a_client_that_leaves_before_the_last_event_is_recorded_once_and_whole(
    make_recording, make_call
):
    pipeline, sink = make_recording()
    call, _ = make_call()
    async with aclosing(pipeline.run(call)) as events:
        await anext(events)
        await anext(events)
    (record,) = sink.records
    assert record.outcome == Outcome()
    assert call.outcome.reason == CallerLeftError.__name__


async def test_a_client_that_leaves_while_its_record_is_written_is_recorded_once(
    make_recording, make_call
):
    pipeline, sink = make_recording()
    sink.on_disk.clear()
    reading = asyncio.create_task(read(pipeline, make_call()[0]))
    async with asyncio.timeout(20):
        while not sink.num_waits:
            await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert [each.outcome for each in sink.records] == [Outcome()]


async def test_nobody_waits_for_the_record_of_a_client_that_left(make_recording, make_call):
    pipeline, sink = make_recording(hanging)
    reading = asyncio.create_task(read(pipeline, make_call()[0]))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert len(sink.records) == 1
    assert not sink.num_waits


def unable(_error):
    raise LookupError("no name for it")


class Unsettled(Stage):
    name = "unsettled"

    def settle(self, call):
        raise LookupError("nowhere to note it")


async def hanging():
    await asyncio.Event().wait()
    yield


async def test_an_end_that_nobody_can_name_is_recorded_as_a_failure_of_ours(
    make_recording, make_call, live_calls
):
    pipeline, sink = make_recording(refusal=DrainingError(), outcome_of=unable)
    with pytest.raises(LookupError):
        await read(pipeline, make_call()[0])
    assert [each.outcome for each in sink.records] == [Outcome(13, "INTERNAL")]
    assert sink.num_waits == 1  # the client hears of it
    assert len(live_calls) == 0


async def test_a_stage_that_fails_at_the_end_keeps_nobody_from_recording(
    make_recording, make_call, live_calls
):
    pipeline, sink = make_recording(two_events, Unsettled())
    with pytest.raises(LookupError):
        await read(pipeline, make_call()[0])
    assert [each.outcome for each in sink.records] == [Outcome()]
    assert len(live_calls) == 0


@pytest.mark.parametrize(
    ("stages", "outcome_of"), [((), unable), ((Unsettled(),), None)], ids=["naming", "settling"]
)
async def test_a_failure_at_the_end_of_a_call_whose_client_left_waits_for_nothing(
    make_recording, make_call, live_calls, stages, outcome_of
):
    pipeline, sink = make_recording(hanging, *stages, outcome_of=outcome_of)
    sink.on_disk.clear()
    reading = asyncio.create_task(read(pipeline, make_call()[0]))
    while not len(live_calls):
        await asyncio.sleep(0)
    reading.cancel()
    async with asyncio.timeout(20):
        (failure,) = await asyncio.gather(reading, return_exceptions=True)
    assert isinstance(failure, LookupError)  # the server logs it
    assert len(sink.records) == 1
    assert len(live_calls) == 0


class Ledger:
    def __init__(self):
        self.told = []

    def accounted(self, worker, usage_id, *, is_wanted):
        self.told.append((worker.worker_id, usage_id, is_wanted))


@pytest.mark.parametrize(
    ("takes", "reason", "is_resumable", "told"),
    [
        (True, "", False, [("w1", "u1", True)]),
        (True, "INTERNAL", True, [("w1", "u1", False)]),
        (True, Reason.CANCELLED, False, [("w1", "u1", False)]),
        # The worker accounts for it: the client may come back, or the record is lost here.
        (True, Reason.CANCELLED, True, []),
        (False, "", False, []),
    ],
)
def test_workers_hear_of_what_is_recorded(
    make_call, make_identity, make_endpoint, fake_clock, takes, reason, is_resumable, told
):
    call, _ = make_call()
    call.identity, call.usage_id, call.kept_on = make_identity(), "u1", make_endpoint("w1")
    call.is_resumable, call.outcome = is_resumable, Outcome(1, reason)
    ledger = Ledger()
    _record_stage(Sink(takes=takes), fake_clock).settle(call)
    Keep(ledger, new_id=lambda: "u1").settle(call)
    assert ledger.told == told
