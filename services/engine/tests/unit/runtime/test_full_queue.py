"""Whoever fills the queue fills it for itself: others get their places, and their answers."""

import asyncio

import pytest
from engine_requests import Gate, collect, embedding, request, text

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.errors import QueueFullError
from caravan_engine.domain.events import Completed
from caravan_engine.domain.request import ClientKey, Continuation, Emitted
from caravan_engine.runtime.embeddings import embed_all

GREEDY, BOB = ClientKey("acme", "greedy"), ClientKey("acme", "bob")


@pytest.fixture
async def hold():
    """Holds the decode thread within a step, in which one request runs."""
    gate = Gate()

    async def hold(make_engine, **limits):
        engine = make_engine(FakeBackend(spend=gate), num_seats=1, **limits)
        gate.close()
        running = engine.submit(request(b"running", client=GREEDY, max_output=4))
        await asyncio.to_thread(gate.reached.wait, 20)
        return engine, running, gate

    yield hold
    gate.open()


async def outcome(stream):
    """The whole text of a stream, or the error that it ends with."""
    try:
        events = await collect(stream)
    except QueueFullError as error:
        return error
    assert isinstance(events[-1], Completed)
    return text(events)


async def test_a_client_that_fills_the_queue_takes_no_place_from_another_one(make_engine, hold):
    engine, running, gate = await hold(make_engine, queue_capacity=4)
    flood = [engine.submit(request(b"flood", client=GREEDY)) for _ in range(4)]
    with pytest.raises(QueueFullError) as refused:
        engine.submit(request(b"flood", client=GREEDY))
    others = [engine.submit(request(b"other", client=BOB)) for _ in range(2)]
    with pytest.raises(QueueFullError):
        engine.submit(request(b"other", client=BOB))
    assert engine.stats().num_waiting == 4
    gate.open()
    outcomes = await asyncio.gather(*map(outcome, (running, *flood, *others)))
    displaced = outcomes[3:5]
    assert all(isinstance(each, str) for each in (*outcomes[:3], *outcomes[5:]))
    for each in displaced:
        assert isinstance(each, QueueFullError)
        assert (str(each), each.metadata) == (str(refused.value), refused.value.metadata)
        assert each.retry_after_s is not None
    stats = engine.stats()
    assert stats.outcomes == {"queue_full": 4, "length": 5}
    assert stats.num_waiting == 0


async def test_a_higher_priority_gets_a_place_in_a_full_queue(make_engine, hold):
    engine, running, gate = await hold(make_engine, queue_capacity=2)
    flood = [engine.submit(request(b"flood", client=GREEDY)) for _ in range(2)]
    urgent = engine.submit(request(b"urgent", client=GREEDY, priority=50))
    gate.open()
    outcomes = await asyncio.gather(*map(outcome, (running, *flood, urgent)))
    assert [isinstance(each, QueueFullError) for each in outcomes] == [False, False, True, False]


async def test_what_another_worker_began_keeps_its_place(make_engine, hold):
    engine, running, gate = await hold(make_engine, queue_capacity=2)
    begun = Continuation((Emitted((1, 2)),))
    kept = engine.submit(request(b"begun", client=GREEDY, priority=1, continuation=begun))
    told = Continuation((Emitted((1, 2), is_finished=True),))
    over = engine.submit(request(b"over", client=GREEDY, priority=1, continuation=told))
    with pytest.raises(QueueFullError):
        engine.submit(request(b"urgent", client=BOB, priority=50))
    gate.open()
    outcomes = await asyncio.gather(*map(outcome, (running, kept, over)))
    assert all(isinstance(each, str) for each in outcomes)


async def test_an_input_that_gives_way_ends_its_call_and_gives_the_other_places_back(
    make_engine, hold
):
    engine, running, gate = await hold(make_engine, queue_capacity=3)
    inputs = [embedding(b"input", client=GREEDY)] * 3
    embedded = asyncio.create_task(embed_all(engine, inputs))
    await asyncio.sleep(0)  # it runs until it waits for the vectors
    assert engine.stats().num_waiting == 3
    other = engine.submit(request(b"other", client=BOB))
    gate.open()
    with pytest.raises(QueueFullError):
        await embedded
    assert isinstance(await outcome(other), str)
    assert isinstance(await outcome(running), str)
    await asyncio.wrap_future(engine.drain())
    assert engine.stats().num_waiting == 0


async def test_whoever_leaves_after_it_was_displaced_ends_once(make_engine, hold):
    engine, running, gate = await hold(make_engine, queue_capacity=1)
    waiting = engine.submit(request(b"waiting", client=GREEDY))
    urgent = engine.submit(request(b"urgent", client=BOB, priority=50))
    waiting.close()
    gate.open()
    await asyncio.gather(collect(running), collect(urgent))
    await asyncio.wrap_future(engine.drain())
    stats = engine.stats()
    assert (sum(stats.outcomes.values()), stats.outcomes["length"]) == (3, 2)
    assert stats.num_waiting == 0


async def test_with_requests_from_many_threads_each_ends_once(make_engine):
    backend = FakeBackend()
    engine = make_engine(backend, num_seats=2, queue_capacity=4)
    streams = []

    def submit_some(number):
        num_refused = 0
        for index in range(100):
            client = ClientKey("acme", f"client {(number + index) % 3}")
            priority = (10, 1, 50, 10)[(number * 7 + index) % 4]
            try:
                streams.append(engine.submit(request(client=client, priority=priority)))
            except QueueFullError:
                num_refused += 1
            assert engine.stats().num_waiting <= 4
        return num_refused

    num_refused = await asyncio.gather(*(asyncio.to_thread(submit_some, n) for n in range(4)))
    outcomes = await asyncio.gather(*map(outcome, streams))
    num_displaced = sum(isinstance(each, QueueFullError) for each in outcomes)
    await asyncio.wrap_future(engine.drain())
    stats = engine.stats()
    assert len(streams) + sum(num_refused) == 400
    assert stats.outcomes["queue_full"] == sum(num_refused) + num_displaced
    assert stats.outcomes["length"] == len(streams) - num_displaced
    assert (stats.num_waiting, backend.num_used_cells) == (0, 0)
