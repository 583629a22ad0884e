"""Deadlines: those that pass, and those that can't be met."""

import asyncio
from dataclasses import replace

import pytest
from engine_requests import Gate, collect, embedding, request

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.errors import (
    DeadlineExceededError,
    DeadlineUnreachableError,
)
from caravan_engine.domain.events import Completed
from caravan_engine.domain.request import (
    Continuation,
    Emitted,
)
from caravan_engine.domain.scheduling.rates import StepRates
from caravan_engine.domain.step import Chunk, StepPlan
from caravan_engine.runtime.embeddings import embed_all
from caravan_testkit.clock import FakeClock


async def test_time_alone_ends_what_is_overdue(make_engine):
    clock = FakeClock()
    gate = Gate()
    engine = make_engine(FakeBackend(spend=gate), clock=clock)
    gate.close()
    stream = engine.submit(request(max_output=99, deadline=clock() + 1))
    await asyncio.to_thread(gate.reached.wait)
    clock.advance(2)
    gate.open()
    with pytest.raises(DeadlineExceededError):
        await collect(stream)


def slow_rates():
    """As measured on a machine that takes a second for a token."""
    rates = StepRates()
    for _ in range(5):
        rates.observe(StepPlan(chunks=(Chunk(0, 9, (1,), object()),)), 1.0)
        rates.observe(StepPlan(chunks=(Chunk(0, 0, (1,) * 20, None),)), 20.0)
    return rates


async def test_a_deadline_that_cannot_be_met_is_refused_at_once_and_takes_no_place(make_engine):
    clock, gate = FakeClock(), Gate()
    engine = make_engine(
        FakeBackend(spend=gate), clock=clock, rates=slow_rates(), queue_capacity=2, num_seats=1
    )
    await collect(engine.submit(request(b"first", max_output=1)))
    gate.close()
    running = engine.submit(request(max_output=1))
    await asyncio.to_thread(gate.reached.wait)
    late = request(b"x" * 100, max_output=9, ignore_eos=True, deadline=clock() + 5)
    for _ in range(5):  # while a step is running
        with pytest.raises(DeadlineUnreachableError) as caught:
            engine.submit(late)
    with pytest.raises(DeadlineUnreachableError):
        await embed_all(engine, [embedding(b"x" * 100, deadline=clock() + 5)])
    assert int(caught.value.metadata["estimate_ms"]) > int(caught.value.metadata["remaining_ms"])
    in_time = engine.submit(request(b"x", max_output=1, deadline=clock() + 1000))
    gate.open()
    await asyncio.gather(collect(running), collect(in_time))
    assert engine.stats().outcomes == {"length": 3, "deadline_unreachable": 6}
    assert engine.stats().num_waiting == 0


async def test_a_worker_may_be_told_to_take_whatever_comes(make_engine):
    clock = FakeClock()
    engine = make_engine(clock=clock, rates=slow_rates(), refuses_late=False)
    await collect(engine.submit(request(b"first", max_output=1)))
    events = await collect(engine.submit(request(max_output=9, deadline=clock() + 0.5)))
    assert isinstance(events[-1], Completed)


async def test_what_another_worker_began_is_not_refused_by_an_estimate(make_engine):
    clock = FakeClock()
    engine = make_engine(clock=clock, rates=slow_rates())
    await collect(engine.submit(request(b"first", max_output=1)))
    late = request(max_output=9, deadline=clock() + 0.5)
    with pytest.raises(DeadlineUnreachableError):
        engine.submit(late)
    begun = replace(late, continuation=Continuation((Emitted((97,)),)))
    assert isinstance((await collect(engine.submit(begun)))[-1], Completed)
