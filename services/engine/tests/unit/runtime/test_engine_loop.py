import asyncio
import threading
import time
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest

from caravan_engine.backends.fake import FakeBackend, letters, scripted
from caravan_engine.domain.errors import (
    ContextLengthExceededError,
    DeadlineExceededError,
    DeadlineUnreachableError,
    DecodeFailedError,
    DrainingError,
    InvalidFieldError,
    QueueFullError,
)
from caravan_engine.domain.events import Completed, Delta, Finished, FinishReason, Started
from caravan_engine.domain.model_facts import Pooling
from caravan_engine.domain.paging.kv_setup import KvOptions, make_kv_manager
from caravan_engine.domain.request import (
    Continuation,
    EmbeddingRequest,
    Emitted,
    GenerationRequest,
)
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.domain.scheduling.rates import StepRates
from caravan_engine.domain.step import Chunk, StepPlan
from caravan_engine.runtime.embeddings import embed_all
from caravan_engine.runtime.engine_loop import EngineLoop, Timing
from caravan_engine.runtime.output_stream import EventPacer, LoopNotifier
from caravan_engine.runtime.page_mover import PagedMemory
from caravan_engine.storage.checksums import checksum
from caravan_testkit.clock import FakeClock


class Gate:
    """Lets a test hold the decode thread inside a step."""

    def __init__(self):
        self.reached, self._open = threading.Event(), threading.Event()
        self._open.set()

    def close(self):
        self.reached.clear()
        self._open.clear()

    def open(self):
        self._open.set()

    def __call__(self, _num_tokens):
        self.reached.set()
        self._open.wait(timeout=60)


def paged_memory(num_seats, num_cells):
    options = KvOptions(
        num_seats=num_seats,
        num_cells=num_cells,
        page_size=16,
        host_budget_bytes=1 << 20,
        bytes_per_token=24,
    )
    return PagedMemory(make_kv_manager(options), checksum)


@pytest.fixture
async def make_engine():
    engines, fatal = [], []

    def make(backend=None, *, clock=None, rates=None, **limits):
        backend = backend or FakeBackend()
        settings = {
            "num_seats": 4,
            "num_cells": backend.num_cells,
            "context_tokens": 1000,
            "token_budget": 64,
            **limits,
        }
        engine = EngineLoop(
            backend,
            SchedulerLimits(**settings),
            paged_memory(settings["num_seats"], backend.num_cells),
            notify=LoopNotifier(asyncio.get_running_loop()),
            on_fatal=fatal.append,
            pacer=EventPacer(max_interval_s=0),
            timing=Timing(clock or time.monotonic, rates or StepRates()),
        )
        engine.start()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        await asyncio.to_thread(engine.stop)
    assert fatal == []


def request(prompt=b"prompt", *, max_output=8, **fields):
    settings = {"sampling": SamplingOptions(temperature=0), "seed": 0, "request_id": "r"}
    return GenerationRequest(
        prompt=tuple(prompt), max_output_tokens=max_output, **{**settings, **fields}
    )


async def collect(stream):
    async with aclosing(stream):
        return [event async for event in stream]


def text(events):
    return "".join(event.text for event in events if isinstance(event, Delta))


async def test_a_request_streams_from_started_to_completed(make_engine):
    engine = make_engine(FakeBackend(next_token=scripted({b"hi": b"there"})))
    events = await collect(engine.submit(request(b"hi")))
    assert events[0] == Started(input_tokens=2, cached_tokens=0)
    assert text(events) == "there"
    assert events[-2] == Finished(0, FinishReason.END_OF_TEXT, None, 5)
    assert isinstance(events[-1], Completed)
    assert events[-1].output_tokens == 5


async def test_a_stop_string_ends_the_text_before_it_and_accounts_for_its_tokens(make_engine):
    engine = make_engine(FakeBackend(next_token=scripted({b"hi": b"one STOP two"})))
    events = await collect(engine.submit(request(b"hi", stop=("STOP",), max_output=99)))
    assert text(events) == "one "
    deltas = [event for event in events if isinstance(event, Delta)]
    tokens = [token for event in deltas for token in event.token_ids]
    assert bytes(tokens) == b"one STOP"
    assert [event.token_offset for event in deltas] == [
        sum(len(each.token_ids) for each in deltas[:index]) for index in range(len(deltas))
    ]
    assert events[-2] == Finished(0, FinishReason.STOP_STRING, "STOP", len(tokens))


async def test_many_requests_at_once_get_what_they_get_alone(make_engine):
    engine = make_engine()
    prompts = [b"prompt %d" % number for number in range(30)]
    together = await asyncio.gather(*(collect(engine.submit(request(p))) for p in prompts))
    alone = [await collect(engine.submit(request(p))) for p in prompts]
    assert [text(each) for each in together] == [text(each) for each in alone]
    stats = engine.stats()
    assert stats.outcomes == {"length": 60}
    assert stats.output_tokens == 60 * 8
    assert (stats.num_waiting, stats.gauges.num_running) == (0, 0)


async def test_choices_arrive_in_one_stream_that_ends_once(make_engine):
    engine = make_engine()
    events = await collect(
        engine.submit(request(choice_count=3, sampling=SamplingOptions(temperature=5.0), seed=1))
    )
    assert [type(event) for event in events].count(Started) == 1
    finished = {event.choice_index: event for event in events if isinstance(event, Finished)}
    assert sorted(finished) == [0, 1, 2]
    for choice in range(3):
        deltas = [e for e in events if isinstance(e, Delta) and e.choice_index == choice]
        sizes = [len(each.token_ids) for each in deltas]
        assert [each.token_offset for each in deltas] == [
            sum(sizes[:index]) for index in range(len(sizes))
        ]
        assert sum(sizes) == finished[choice].output_tokens
    assert isinstance(events[-1], Completed)
    assert events[-1].output_tokens == sum(each.output_tokens for each in finished.values())
    assert events[-1].input_tokens == engine.stats().input_tokens == 6


async def test_each_token_has_its_log_probabilities_however_long_it_was_held_back(make_engine):
    engine = make_engine(FakeBackend(next_token=scripted({b"hi": "aé ST STO.".encode()})))
    events = await collect(
        engine.submit(request(b"hi", stop=("STOP",), max_output=99, num_top_logprobs=1))
    )
    deltas = [event for event in events if isinstance(event, Delta)]
    assert text(events) == "aé ST STO."
    assert [len(each.logprobs) for each in deltas] == [len(each.token_ids) for each in deltas]
    for delta in deltas:
        best = [logprobs.top[0] for logprobs in delta.logprobs]
        assert tuple(each.token_id for each in best) == delta.token_ids
        assert [each.text for each in best] == [
            bytes([token]).decode(errors="replace") for token in delta.token_ids
        ]
        assert [each.logprob for each in best] == [each.logprob for each in delta.logprobs]


def embedding(text, **fields):
    return EmbeddingRequest(
        **{"request_id": "e", "prompt": tuple(text), "pooling": Pooling.MEAN, **fields}
    )


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


async def test_refusals_come_at_once_while_a_step_is_running(make_engine):
    gate = Gate()
    engine = make_engine(FakeBackend(spend=gate), num_seats=1, queue_capacity=1)
    gate.close()
    first = engine.submit(request(max_output=99))
    await asyncio.to_thread(gate.reached.wait)
    second = engine.submit(request())
    with pytest.raises(QueueFullError):
        engine.submit(request())
    with pytest.raises(ContextLengthExceededError):
        engine.submit(request(b"x" * 1000))
    with pytest.raises(InvalidFieldError):
        engine.submit(request(sampling=SamplingOptions(logit_bias={9999: 1.0})))
    gate.open()
    await asyncio.gather(collect(first), collect(second))
    assert engine.stats().outcomes == {
        "length": 2,
        "queue_full": 1,
        "context_length_exceeded": 1,
        "invalid_field": 1,
    }


async def test_leaving_a_stream_cancels_its_request(make_engine):
    backend = FakeBackend()
    engine = make_engine(backend)
    stream = engine.submit(request(max_output=900))
    async with aclosing(stream):
        await anext(stream)
    await asyncio.wrap_future(engine.drain())
    assert backend.num_used_cells == 0
    assert engine.stats().outcomes == {"cancelled": 1}


async def test_a_reader_that_does_not_read_pauses_only_its_own_sequence(make_engine):
    engine = make_engine(max_unread_tokens=16)
    slow = engine.submit(request(b"slow", max_output=200))
    events = await collect(engine.submit(request(b"fast", max_output=200)))
    assert sum(len(e.token_ids) for e in events if isinstance(e, Delta)) == 200
    assert slow.num_unread == 16
    assert engine.stats().gauges.num_paused == 1
    late = await collect(slow)
    assert sum(len(e.token_ids) for e in late if isinstance(e, Delta)) == 200


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


async def test_draining_refuses_new_requests_and_finishes_the_running(make_engine):
    engine = make_engine()
    running = [engine.submit(request(b"%d" % number)) for number in range(8)]
    drained = engine.drain()
    with pytest.raises(DrainingError):
        engine.submit(request())
    events = await asyncio.gather(*map(collect, running))
    await asyncio.wrap_future(drained)
    assert all(isinstance(each[-1], Completed) for each in events)


async def test_ending_all_tells_every_reader(make_engine):
    engine = make_engine(num_seats=1)
    streams = [engine.submit(request(max_output=900)) for _ in range(3)]
    await anext(streams[0])
    assert await asyncio.wrap_future(engine.end_all(DrainingError())) == 3
    for stream in streams:
        with pytest.raises(DrainingError):
            await collect(stream)


async def test_pages_are_dropped_between_steps_and_counted(make_engine):
    engine = make_engine()
    await collect(engine.submit(request(b"kept for a while", max_output=4)))
    assert await asyncio.wrap_future(engine.drop_pages("default")) == 2
    assert await asyncio.wrap_future(engine.drop_pages("default")) == 0


async def test_an_order_whose_giver_has_left_is_not_obeyed_and_harms_nobody(make_engine):
    gate = Gate()
    engine = make_engine(FakeBackend(spend=gate))
    gate.close()
    running = engine.submit(request(max_output=4))
    await asyncio.to_thread(gate.reached.wait)
    orders = [engine.drop_pages("default"), engine.end_all(DrainingError())]
    assert all(each.cancel() for each in orders)
    gate.open()
    assert isinstance((await collect(running))[-1], Completed)


async def test_a_failed_step_is_invisible_to_readers(make_engine):
    undisturbed = make_engine()
    disturbed = make_engine(FakeBackend(fails=lambda step, _plan: -3 if step % 5 == 3 else None))
    wanted = await collect(undisturbed.submit(request(b"same", max_output=40)))
    assert text(await collect(disturbed.submit(request(b"same", max_output=40)))) == text(wanted)


async def test_a_request_that_can_not_be_computed_fails_alone(make_engine):
    def fails(_step, plan):
        return -3 if any(ord("!") in chunk.tokens for chunk in plan.chunks) else None

    engine = make_engine(FakeBackend(fails=fails))
    good, bad = engine.submit(request(b"good")), engine.submit(request(b"bad!"))
    with pytest.raises(DecodeFailedError):
        await collect(bad)
    assert isinstance((await collect(good))[-1], Completed)


async def test_what_the_decode_thread_does_not_understand_is_fatal(make_engine):
    fatal = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def explode(_num_tokens):
        raise ZeroDivisionError

    engine = EngineLoop(
        FakeBackend(spend=explode),
        SchedulerLimits(num_seats=1, num_cells=64, context_tokens=64, token_budget=8),
        paged_memory(1, 64),
        notify=LoopNotifier(loop),
        on_fatal=lambda error: loop.call_soon_threadsafe(fatal.set_result, error),
    )
    engine.start()
    engine.submit(request())
    assert isinstance(await fatal, ZeroDivisionError)


async def test_a_thousand_random_disconnects_leave_nothing_behind(make_engine):
    backend = FakeBackend()
    engine = make_engine(backend, queue_capacity=1000)
    threads = threading.active_count()

    async def leave_after(number):
        stream = engine.submit(request(b"%d" % number, max_output=30))
        async with aclosing(stream):
            for _ in range(number % 7):
                await anext(stream, None)

    for first in range(0, 1000, 100):
        await asyncio.gather(*(leave_after(number) for number in range(first, first + 100)))
    await asyncio.wrap_future(engine.drain())
    stats = engine.stats()
    assert backend.num_used_cells == 0
    gauges = stats.gauges
    assert (gauges.num_running, gauges.num_paused, gauges.num_parked) == (0, 0, 0)
    assert (stats.num_waiting, gauges.kv.num_used_cells, gauges.kv.num_seated) == (0, 0, 0)
    assert sum(stats.outcomes.values()) == 1000
    assert threading.active_count() <= threads
    assert len(asyncio.all_tasks()) == 1


async def test_whoever_wants_to_know_hears_of_evictions(make_engine):
    engine = make_engine()
    evictions = threading.Semaphore(0)
    engine.on_eviction = evictions.release
    await collect(engine.submit(request(b"x" * 40)))
    await asyncio.wrap_future(engine.drain())
    assert not evictions.acquire(blocking=False)

    await asyncio.wrap_future(engine.resize_pages(host_bytes=0, disk_bytes=None))
    assert await asyncio.to_thread(evictions.acquire, timeout=10)
    assert engine.stats().gauges.kv.stored.num_host_evictions > 0
