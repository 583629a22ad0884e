import asyncio
from contextlib import aclosing

import pytest

from caravan_engine.domain.errors import DecodeFailedError
from caravan_engine.domain.events import Delta, Finished, FinishReason, Started
from caravan_engine.runtime.detokenizer import TextPiece
from caravan_engine.runtime.output_stream import EventPacer, LoopNotifier, OutputStream


class Harness:
    """A stream, and a writer that wakes the reader like the decode thread does."""

    def __init__(self, interval_s=0.0):
        self.reads, self.num_closed, self.num_tokens = [], 0, 0
        self.stream = OutputStream(
            EventPacer(interval_s=interval_s), on_read=self.reads.append, on_close=self._close
        )

    def text(self, text, *, wake=True):
        self.stream.write_text(0, TextPiece(text, (self.num_tokens,)), self.num_tokens)
        self.num_tokens += 1
        if wake:
            self.stream.wake()

    def event(self, event):
        self.stream.write(event)
        self.stream.wake()

    def end(self, error=None):
        self.stream.end(error)
        self.stream.wake()

    def _close(self):
        self.num_closed += 1


async def settle():
    """Lets every task run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def delta(text, *tokens):
    return Delta(0, text, tokens, tokens[0])


FINISHED = Finished(0, FinishReason.LENGTH, None, 3)


async def test_events_arrive_in_order_and_the_stream_ends():
    harness = Harness()
    harness.event(Started(3, 0))
    harness.text("a")
    harness.event(FINISHED)
    harness.end()
    assert [event async for event in harness.stream] == [Started(3, 0), delta("a", 0), FINISHED]


async def test_what_accumulates_while_the_reader_is_busy_rides_in_one_event():
    harness = Harness()
    for letter in "abc":
        harness.text(letter)
    assert await anext(harness.stream) == delta("abc", 0, 1, 2)
    harness.text("d")
    harness.text("e")
    assert await anext(harness.stream) == delta("de", 3, 4)
    assert harness.reads == [3, 2]


async def test_text_of_several_choices_rides_in_one_event_each():
    harness = Harness()
    for token in range(3):
        for choice in range(2):
            harness.stream.write_text(choice, TextPiece("ab"[choice], (token,)), token)
    harness.event(FINISHED)
    events = [await anext(harness.stream) for _ in range(3)]
    assert events == [Delta(0, "aaa", (0, 1, 2), 0), Delta(1, "bbb", (0, 1, 2), 0), FINISHED]


async def test_a_waiting_reader_gets_the_first_token_at_once_and_later_ones_paced():
    harness = Harness(interval_s=3600)
    reader = asyncio.create_task(anext(harness.stream))
    await settle()
    harness.text("a")
    assert await reader == delta("a", 0)
    reader = asyncio.create_task(anext(harness.stream))
    await settle()
    harness.text("b")
    harness.text("c")
    await settle()
    assert not reader.done()
    harness.event(FINISHED)
    assert await reader == delta("bc", 1, 2)
    assert await anext(harness.stream) == FINISHED


async def test_a_paced_event_goes_out_when_its_time_has_come():
    harness = Harness(interval_s=0.001)
    harness.text("a")
    await anext(harness.stream)
    harness.text("b")
    assert await anext(harness.stream) == delta("b", 1)


async def test_an_error_comes_after_what_was_written():
    harness = Harness()
    harness.text("a")
    harness.end(DecodeFailedError())
    assert await anext(harness.stream) == delta("a", 0)
    with pytest.raises(DecodeFailedError):
        await anext(harness.stream)


async def test_a_waiting_reader_hears_of_an_error():
    harness = Harness()
    reader = asyncio.create_task(anext(harness.stream))
    await settle()
    harness.end(DecodeFailedError())
    with pytest.raises(DecodeFailedError):
        await reader


async def test_leaving_early_is_reported_and_leaving_after_the_end_is_not():
    harness = Harness()
    async with aclosing(harness.stream):
        pass
    assert harness.num_closed == 1
    harness.end()
    await harness.stream.aclose()
    assert harness.num_closed == 1


async def test_a_cancelled_reader_leaves_no_timer_and_may_come_back():
    harness = Harness(interval_s=3600)
    harness.text("a")
    await anext(harness.stream)
    harness.text("b")
    reader = asyncio.create_task(anext(harness.stream))
    await settle()
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    harness.end()
    assert await anext(harness.stream) == delta("b", 1)


async def test_unread_tokens_are_counted_until_they_are_taken():
    harness = Harness()
    harness.text("a")
    harness.text("b")
    assert harness.stream.num_unread == 2
    await anext(harness.stream)
    assert harness.stream.num_unread == 0


async def test_another_thread_wakes_readers_through_the_notifier():
    harness = Harness()
    notify = LoopNotifier(asyncio.get_running_loop())

    def write():
        harness.text("a", wake=False)
        notify([harness.stream])

    reader = asyncio.create_task(anext(harness.stream))
    await asyncio.to_thread(write)
    assert await reader == delta("a", 0)


def test_a_closed_loop_has_no_readers_left():
    loop = asyncio.new_event_loop()
    loop.close()
    LoopNotifier(loop)([])


def test_the_pacer_spaces_events_with_the_number_of_streams():
    pacer = EventPacer(events_per_s=200, max_interval_s=0.1)
    pacer.update(1)
    assert pacer.interval_s == pytest.approx(0.005)
    pacer.update(64)
    assert pacer.interval_s == pytest.approx(0.1)
