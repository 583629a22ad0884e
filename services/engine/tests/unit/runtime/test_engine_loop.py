"""What a request's reader gets from the loop, whatever becomes of others."""

import asyncio
import threading
from contextlib import aclosing

import pytest
from engine_requests import Gate, collect, paged_memory, request, text

from caravan_engine.backends.fake import FakeBackend, scripted
from caravan_engine.domain.errors import (
    ContextLengthExceededError,
    DecodeFailedError,
    DrainingError,
    InvalidFieldError,
    QueueFullError,
)
from caravan_engine.domain.events import Completed, Delta, Finished, FinishReason, Started
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.runtime.engine_loop import EngineLoop
from caravan_engine.runtime.output_stream import LoopNotifier


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
