import asyncio
from contextlib import aclosing

import pytest
from noting_stage import Noting, read, two_events

from caravan_gateway.domain.admission import Route, Stage, Validate
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
    DeltaFacts,
)
from caravan_gateway.domain.principal import Credential
from caravan_gateway.domain.usage import Outcome


async def test_stages_are_passed_and_settled_in_the_order_of_the_list(make_pipeline, make_call):
    notes = []
    pipeline = make_pipeline(
        Noting("one", notes), Noting("two", notes, events=two_events), Noting("three", notes)
    )
    call, _ = make_call()
    assert await read(pipeline, call) == ["a", "b"]
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
        Noting("one", notes, refusal=KeyRevokedError()), Noting("two", notes, events=two_events)
    )
    call, _ = make_call()
    with pytest.raises(KeyRevokedError):
        await read(pipeline, call)
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
    task = asyncio.create_task(read(pipeline, call))
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
    task = asyncio.create_task(read(pipeline, call))
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
    pipeline = make_pipeline(Noting("one", [], events=two_events))
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
    pipeline = make_pipeline(Noting("one", [], events=two_events))
    running = [pipeline.run(make_call()[0]) for _ in range(2)]
    for events in running:
        await anext(events)
    with pytest.raises(TooManyCallsError):
        await read(pipeline, make_call()[0])
    for events in running:
        await events.aclose()
    assert await read(pipeline, make_call()[0]) == ["a", "b"]


async def test_draining_refuses_new_calls_and_ends_what_is_left(
    make_pipeline, make_call, live_calls
):
    pipeline = make_pipeline(Noting("one", [], events=two_events))
    call, ended = make_call()
    running = pipeline.run(call)
    await anext(running)
    draining = asyncio.create_task(live_calls.drain(0))
    while not ended:
        await asyncio.sleep(0)
    with pytest.raises(DrainingError):
        await read(pipeline, make_call()[0])
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


def test_a_call_that_was_never_routed_settles_without_a_lease(make_call):
    Route(None, None).settle(make_call()[0])
