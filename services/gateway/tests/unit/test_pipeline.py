import asyncio
from contextlib import aclosing

import pytest

from caravan_gateway.domain.admission import Keep, Record, Route, Stage, Validate
from caravan_gateway.domain.errors import (
    CallerDeadlineError,
    CallerLeftError,
    DrainingError,
    KeyRevokedError,
    ReaderStalledError,
    TooManyCallsError,
)
from caravan_gateway.domain.inference_call import RunEvent
from caravan_gateway.domain.inference_facts import (
    CompletedFacts,
    DeltaFacts,
    FinishedFacts,
    StartedFacts,
)
from caravan_gateway.domain.principal import Credential
from caravan_gateway.domain.usage import Outcome
from caravan_gateway.runtime.inference_pipeline import InferencePipeline
from caravan_gateway.runtime.live_calls import LiveCalls
from caravan_rpckit.errors import Reason


class Noting(Stage):
    """Notes its moments; refuses or yields as it is told."""

    def __init__(self, name, notes, *, refusal=None, events=None):
        self.name = name
        self.notes = notes
        self.refusal = refusal
        self.own_events = events

    async def admit(self, call):
        self.notes.append(f"admit {self.name}")
        if self.refusal is not None:
            raise self.refusal

    def follow(self, call, events):
        return self.own_events() if self.own_events is not None else events

    def settle(self, call):
        self.notes.append(f"settle {self.name}")


@pytest.fixture
def live_calls(fake_clock):
    return LiveCalls(max_calls=2, reader_stall_s=5.0, clock=fake_clock)


@pytest.fixture
def make_pipeline(live_calls, fake_clock):
    def make(*stages):
        return InferencePipeline(
            stages,
            live_calls,
            outcome_of=lambda error: Outcome(1, type(error).__name__),
            clock=fake_clock,
        )

    return make


async def _two_events():
    yield RunEvent("a", StartedFacts("d1", 4, 1))
    yield RunEvent("b", CompletedFacts(4, 1, 0, 2.5))


async def _read(pipeline, call):
    async with aclosing(pipeline.run(call)) as events:
        return [event.payload async for event in events]


async def test_stages_are_passed_and_settled_in_the_order_of_the_list(make_pipeline, make_call):
    notes = []
    pipeline = make_pipeline(
        Noting("one", notes), Noting("two", notes, events=_two_events), Noting("three", notes)
    )
    call, _ = make_call()
    assert await _read(pipeline, call) == ["a", "b"]
    assert notes == [
        *("admit one", "admit two", "admit three"),
        *("settle one", "settle two", "settle three"),
    ]
    assert call.outcome == Outcome()
    assert call.progress.queue_ms == 2.5


async def test_a_refusal_stops_the_later_stages_and_settles_all(
    make_pipeline, make_call, live_calls
):
    notes = []
    pipeline = make_pipeline(
        Noting("one", notes, refusal=KeyRevokedError()), Noting("two", notes, events=_two_events)
    )
    call, _ = make_call()
    with pytest.raises(KeyRevokedError):
        await _read(pipeline, call)
    assert notes == ["admit one", "settle one", "settle two"]
    assert call.outcome.reason == "KeyRevokedError"
    assert len(live_calls) == 0


async def test_leaving_early_closes_the_stream_and_settles(make_pipeline, make_call):
    notes = []

    async def endless():
        try:
            while True:
                yield RunEvent("x", DeltaFacts(0, 0, [5]))
        finally:
            notes.append("closed")

    pipeline = make_pipeline(Noting("one", notes, events=endless))
    call, _ = make_call()
    async with aclosing(pipeline.run(call)) as events:
        await anext(events)
    assert notes == ["admit one", "closed", "settle one"]
    assert call.outcome.reason == CallerLeftError.__name__


@pytest.mark.parametrize(
    ("time_left", "error"), [(0.0, CallerDeadlineError), (5.0, CallerLeftError)]
)
async def test_a_cancelled_call_ended_by_its_deadline_or_by_its_caller(
    make_pipeline, make_call, time_left, error
):
    async def hanging():
        await asyncio.Event().wait()
        yield

    pipeline = make_pipeline(Noting("one", [], events=hanging))
    call, _ = make_call(time_left=lambda: time_left)
    task = asyncio.create_task(_read(pipeline, call))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert call.outcome.reason == error.__name__


async def test_a_call_ended_from_outside_has_that_outcome(
    make_pipeline, make_call, live_calls, make_identity
):
    class Binding(Stage):
        name = "binding"

        async def admit(self, call):
            call.guard.bind(Credential.parse("Bearer x"), make_identity(key_id="k1"))

    async def hanging():
        await asyncio.Event().wait()
        yield

    pipeline = make_pipeline(Binding(), Noting("one", [], events=hanging))
    call, ended = make_call()
    task = asyncio.create_task(_read(pipeline, call))
    await asyncio.sleep(0)
    live_calls.end_keys({"k2"}, KeyRevokedError)
    assert not ended
    live_calls.end_keys({"k1"}, KeyRevokedError)
    live_calls.end_keys({"k1"}, KeyRevokedError)
    assert [type(error) for error in ended] == [KeyRevokedError]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert call.outcome.reason == "KeyRevokedError"


async def test_a_client_that_does_not_read_is_ended(
    make_pipeline, make_call, live_calls, fake_clock
):
    pipeline = make_pipeline(Noting("one", [], events=_two_events))
    call, ended = make_call()
    async with aclosing(pipeline.run(call)) as events:
        await anext(events)
        fake_clock.advance(5.0)
        live_calls.end_stalled()
        assert not ended
        fake_clock.advance(0.1)
        live_calls.end_stalled()
        assert [type(error) for error in ended] == [ReaderStalledError]


async def test_no_more_calls_than_allowed_run_at_once(make_pipeline, make_call, live_calls):
    pipeline = make_pipeline(Noting("one", [], events=_two_events))
    running = [pipeline.run(make_call()[0]) for _ in range(2)]
    for events in running:
        await anext(events)
    with pytest.raises(TooManyCallsError):
        await _read(pipeline, make_call()[0])
    for events in running:
        await events.aclose()
    assert await _read(pipeline, make_call()[0]) == ["a", "b"]


async def test_draining_refuses_new_calls_and_ends_what_is_left(
    make_pipeline, make_call, live_calls
):
    pipeline = make_pipeline(Noting("one", [], events=_two_events))
    call, ended = make_call()
    running = pipeline.run(call)
    await anext(running)
    draining = asyncio.create_task(live_calls.drain(0))
    while not ended:
        await asyncio.sleep(0)
    with pytest.raises(DrainingError):
        await _read(pipeline, make_call()[0])
    assert [type(error) for error in ended] == [DrainingError]
    await running.aclose()
    await draining


async def test_validation_fills_in_what_is_open(make_call, make_spec, make_identity):
    stage = Validate(draw_seed=lambda: 77)
    call, _ = make_call(make_spec(labels={"a": "b"}))
    call.identity = make_identity(priority_cap=5)
    await stage.admit(call)
    assert (call.seed, call.priority, call.labels) == (77, 5, {"a": "b"})

    call, _ = make_call(make_spec(seed=0, priority=90))
    call.identity = make_identity(priority_cap=100)
    await stage.admit(call)
    assert (call.seed, call.priority) == (0, 90)


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

    def make(events=_two_events, **options):
        sink = Sink()
        stages = (Known(make_identity()), Noting("run", [], events=events, **options))
        return make_pipeline(*stages, _record_stage(sink, fake_clock)), sink

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
    reading = asyncio.create_task(_read(pipeline, make_call()[0]))
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
    reading = asyncio.create_task(_read(pipeline, make_call()[0]))
    async with asyncio.timeout(20):
        while not sink.num_waits:
            await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert [each.outcome for each in sink.records] == [Outcome()]


async def test_nobody_waits_for_the_record_of_a_client_that_left(make_recording, make_call):
    async def hanging():
        await asyncio.Event().wait()
        yield

    pipeline, sink = make_recording(hanging)
    reading = asyncio.create_task(_read(pipeline, make_call()[0]))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert len(sink.records) == 1
    assert not sink.num_waits


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


def test_a_call_that_was_never_routed_settles_without_a_lease(make_call):
    Route(None, None).settle(make_call()[0])
