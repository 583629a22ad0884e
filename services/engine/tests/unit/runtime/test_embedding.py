"""Inputs that become vectors, beside generation."""

import asyncio

import numpy as np
import pytest
from engine_requests import Gate, collect, embedding, request

from caravan_engine.backends.fake import FakeBackend, letters
from caravan_engine.domain.errors import (
    ContextLengthExceededError,
    DeadlineExceededError,
    DecodeFailedError,
    QueueFullError,
)
from caravan_engine.runtime.embeddings import embed_all
from caravan_testkit.clock import FakeClock


def vector_of(text):
    """What the stand-in's token vectors pool to."""
    rows = [[0, end, letters(list(text[:end]))] for end in range(1, len(text) + 1)]
    mean = np.sum(rows, axis=0)
    return pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


async def test_long_and_short_inputs_are_embedded_beside_generation_in_steps_of_their_own(
    make_engine,
):
    backend = FakeBackend()
    engine = make_engine(backend)
    texts = [b"short", b"x" * 200, *(b"text %d" % number for number in range(20))]
    streams = [engine.submit(request(b"prompt %d" % n, max_output=40)) for n in range(3)]
    embedded = embed_all(engine, map(embedding, texts))
    events, inputs = await asyncio.gather(asyncio.gather(*map(collect, streams)), embedded)
    assert [each.vector for each in inputs] == [vector_of(each) for each in texts]
    assert [each.input_tokens for each in inputs] == [len(each) for each in texts]
    assert all(each[-1].output_tokens == 40 for each in events)
    kinds = [{chunk.pooler is None for chunk in plan.chunks} for plan in backend.plans]
    assert all(len(kind) == 1 for kind in kinds)
    assert max(plan.num_tokens for plan in backend.plans if plan.is_embedding) <= 64
    await asyncio.wrap_future(engine.drain())
    assert backend.num_used_cells == 0
    assert engine.stats().outcomes == {"length": 3, "embedded": 22}


async def test_a_failed_step_is_replayed_and_vectors_stay_the_same(make_engine):
    for failing in range(4):
        engine = make_engine(
            FakeBackend(fails=lambda step, _plan, at=failing: -3 if step == at else None)
        )
        inputs = await embed_all(engine, [embedding(b"a" * 150), embedding(b"bc")])
        assert [each.vector for each in inputs] == [vector_of(b"a" * 150), vector_of(b"bc")]


async def test_an_input_without_a_usable_vector_fails_with_all_of_its_request(make_engine):
    def fill(history):
        return np.nan if bytes(history).startswith(b"bad") else 0.0

    backend = FakeBackend(fill=fill)
    engine = make_engine(backend, num_seats=1)
    with pytest.raises(DecodeFailedError):
        await embed_all(engine, map(embedding, [b"bad", b"good", b"fine"]))
    assert (await embed_all(engine, [embedding(b"good")]))[0].vector == vector_of(b"good")
    await asyncio.wrap_future(engine.drain())
    assert backend.num_used_cells == 0


async def test_a_caller_who_leaves_ends_all_inputs(make_engine):
    gate = Gate()
    backend = FakeBackend(spend=gate)
    engine = make_engine(backend, num_seats=2)
    gate.close()
    task = asyncio.create_task(embed_all(engine, [embedding(b"x" * 300)] * 9))
    await asyncio.to_thread(gate.reached.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open()
    await asyncio.wrap_future(engine.drain())
    assert engine.stats().outcomes == {"cancelled": 9}


async def test_inputs_are_refused_like_requests_and_take_back_what_was_queued(make_engine):
    gate = Gate()
    engine = make_engine(FakeBackend(spend=gate), num_seats=1, queue_capacity=2)
    with pytest.raises(ContextLengthExceededError):
        await embed_all(engine, [embedding(b"a"), embedding(b"x" * 1001)])
    await embed_all(engine, [embedding(b"x" * 1000)])
    gate.close()
    stream = engine.submit(request())
    await asyncio.to_thread(gate.reached.wait)
    with pytest.raises(QueueFullError):
        await embed_all(engine, [embedding(b"a")] * 3)
    gate.open()
    await collect(stream)
    await embed_all(engine, [embedding(b"a")] * 2)


async def test_a_deadline_holds_for_inputs(make_engine):
    clock = FakeClock()
    engine = make_engine(FakeBackend(spend=lambda _: clock.advance(1)), clock=clock)
    with pytest.raises(DeadlineExceededError):
        await embed_all(engine, [embedding(b"x" * 900, deadline=clock() + 3)])
