"""Generations, timers and readers of kept streams, as a test leads them."""

import asyncio
from contextlib import aclosing

from caravan_engine.domain.errors import (
    RequestCancelledError,
)
from caravan_engine.domain.events import Completed, Delta, Finished, FinishReason, Started, Timings
from caravan_engine.domain.kept_output import Received
from caravan_engine.runtime.retained_streams import (
    RetainedStreams,
    RetentionLimits,
    StreamName,
    StreamOrigin,
)
from caravan_testkit.waiting import wait_until_async

STARTED = Started(5, 0)
COMPLETED = Completed(5, 0, 3, Timings(0, 0, 0))
FINISHED = Finished(0, FinishReason.LENGTH, None, 3)


def delta(offset, *tokens):
    return Delta(0, "x" * len(tokens), tokens, offset)


class Source:
    """A generation whose events the test sends."""

    def __init__(self):
        self._news = asyncio.Queue()
        self.is_closed = False

    def send(self, *events):
        for event in events:
            self._news.put_nowait(event)

    def close(self):
        if not self.is_closed:
            self.is_closed = True
            self._news.put_nowait(RequestCancelledError())

    def __aiter__(self):
        return self

    async def __anext__(self):
        event = await self._news.get()
        if event is None:
            raise StopAsyncIteration
        if isinstance(event, Exception):
            raise event
        return event


class Timers:
    """Calls things later when the test says that time passes."""

    def __init__(self):
        self.pending = []

    def call_later(self, delay_s, callback):
        timer = _Timer(self, delay_s, callback)
        self.pending.append(timer)
        return timer

    def ring(self):
        for timer in tuple(self.pending):
            timer.cancel()
            timer.callback()


class _Timer:
    def __init__(self, timers, delay_s, callback):
        self._timers, self.delay_s, self.callback = timers, delay_s, callback

    def cancel(self):
        if self in self._timers.pending:
            self._timers.pending.remove(self)


class Accounts:
    """What would be known of generations if the process died now: their tokens."""

    def __init__(self):
        self.tokens = {}
        self.num_changes = 0

    def changed(self, stream):
        self.num_changes += 1
        self.grew(stream)

    def grew(self, stream):
        if not stream.is_accounted:
            self.tokens[stream.origin.usage_id] = stream.output.output_tokens

    def settled(self, usage_id):
        self.tokens.pop(usage_id, None)


class World:
    def __init__(self, **limits):
        self.timers = Timers()
        self.accounts = Accounts()
        self.abandoned = []
        self.now_s = 0.0
        self.streams = RetainedStreams(
            RetentionLimits(**limits),
            on_abandoned=self.abandoned.append,
            clock=lambda: self.now_s,
            call_later=self.timers.call_later,
            accounts=self.accounts,
        )

    def begin(self, name="call", usage_id=None, output=None, *, resumable=True):
        source = Source()
        origin = StreamOrigin(
            StreamName("t", "p", name),
            usage_id or f"usage-{name}",
            object(),
            is_resumable=resumable,
        )
        return source, self.streams.keep(origin, source, output)


class Reader:
    """Reads a stream in a task that can be ended with an error, as a call can."""

    def __init__(self, stream, received=()):
        self.events = []
        self.error = None
        self._task = asyncio.create_task(self._read(stream, received))

    async def _read(self, stream, received):
        try:
            async with aclosing(stream.read(received, self._end)) as events:
                async for event in events:
                    self.events.append(event)
        except asyncio.CancelledError:
            if self.error is None:
                raise
        except Exception as error:  # noqa: BLE001 (the test looks at it)
            self.error = error

    def _end(self, error):
        self.error = error
        self._task.cancel()

    async def got(self, count):
        async def there():
            return len(self.events) >= count

        await wait_until_async(there, timeout_s=20, what=f"{count} events")

    async def leave(self):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def end(self):
        await asyncio.wait_for(asyncio.gather(self._task, return_exceptions=True), 20)
        return self.events


async def until_tokens(stream, count):
    async def there():
        return stream.output.output_tokens >= count

    await wait_until_async(there, timeout_s=20, what=f"{count} tokens")


async def until_over(stream):
    async def over():
        return stream.is_over

    await wait_until_async(over, timeout_s=20, what="the end")


def received(stream, count, *, finished=False):
    return stream.output.history([Received(count, finished)], 1)
