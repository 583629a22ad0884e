"""Keeps generations whose reader may come back, and lets them go on while it is away.

Of others it keeps for a while how many tokens they have: their gateway may have died before it
wrote that down.

Whoever wants a generation kept calls `RetainedStreams.keep`, and `read` of what that returns, or
`leave_alone` where there is no reader yet. Knows no gRPC.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from caravan_engine.domain.errors import RequestCancelledError, ResumedElsewhereError
from caravan_engine.domain.events import Completed, Delta, Event, Started
from caravan_engine.domain.kept_output import KeptOutput
from caravan_engine.domain.request import Emitted
from caravan_engine.runtime.stream_accounts import StreamAccounts
from caravan_rpckit.errors import CaravanError


@dataclass(frozen=True, slots=True)
class RetentionLimits:
    """How long and how much is kept."""

    time_s: float = 60.0  # without a reader; 0: all end with their reader
    stream_bytes: int = 2**20  # of one generation, which waits for its reader when it has so many
    total_bytes: int = 64 * 2**20  # of all; beyond that those go first that are over
    account_s: float = 60.0  # for which others wait for somebody to account for them


@dataclass(frozen=True, slots=True)
class StreamName:
    """Whose generation it is, and what they call it."""

    tenant: str
    principal: str
    request_id: str


@dataclass(frozen=True, slots=True)
class StreamOrigin:
    """Where a generation comes from.

    `usage_id` is unique. `order` is how it was asked for, which nobody here looks into, and
    `order_bytes` its size. One that is not `is_resumable` ends with its reader.
    """

    name: StreamName
    usage_id: str
    order: object = field(repr=False)
    order_bytes: int = 0
    is_resumable: bool = True


@dataclass(frozen=True, slots=True)
class KeptNumbers:
    """How much is kept at one moment."""

    num_streams: int
    num_unread: int  # those of them without a reader
    num_bytes: int


class EventSource(Protocol):
    """The events of a running generation; see `OutputStream`."""

    def __aiter__(self) -> AsyncIterator[Event]: ...

    def close(self) -> None:
        """Cancels the generation, if it runs."""


class Timer(Protocol):
    """Something that happens later, unless it is cancelled."""

    def cancel(self) -> object:
        """It doesn't happen any more."""


CallLater = Callable[[float, Callable[[], None]], Timer]


class _Reader:
    def __init__(self, end: Callable[[CaravanError], None]) -> None:
        self.end = end
        self.left = asyncio.Event()


class RetainedStream:
    """One generation. Made by `RetainedStreams.keep`; owned by the event loop.

    It has one reader at most. While it has none a task of its own reads on, until it is over or
    as much is kept as may be.
    """

    def __init__(
        self,
        streams: "RetainedStreams",
        origin: StreamOrigin,
        source: EventSource,
        output: KeptOutput,
    ) -> None:
        self.origin = origin
        self.output = output
        self.error: CaravanError | None = None  # with which it ended
        self.is_over = False
        self.is_accounted = False  # somebody else writes its usage record
        self.first_token_s: float | None = None  # after it was begun
        self._streams = streams
        self._source = source
        self._began_s = streams.clock()
        self._reader: _Reader | None = None
        self._pump: asyncio.Task[None] | None = None

    @property
    def num_bytes(self) -> int:
        """What it costs."""
        return self.origin.order_bytes + self.output.num_bytes

    @property
    def is_read(self) -> bool:
        """Whether it has a reader."""
        return self._reader is not None

    async def read(
        self, received: Sequence[Emitted], end: Callable[[CaravanError], None]
    ) -> AsyncGenerator[Event, None]:
        """Yields `started` and what follows `received`; close it when leaving.

        Whoever else reads is ended first. The latest wins: it is the one whose client is known to
        be there.

        Args:
            received: What the client has of each choice; empty for nothing at all.
            end: Ends the task that iterates, with an error.

        Raises:
            CaravanError: as the generation ended.
        """
        while (other := self._reader) is not None:
            other.end(ResumedElsewhereError())
            await other.left.wait()
        reader = self._reader = _Reader(end)
        self._streams.entered(self)
        try:
            await self._stop_pump()
            for event in self.output.after(received):
                yield event
            async for event in self._rest():
                yield event
            if self.error is not None:
                self._streams.retire(self)  # its reader accounts for it, or goes on elsewhere
                raise self.error
        finally:
            self._reader = None
            reader.left.set()
            self.leave_alone()

    def leave_alone(self) -> None:
        """Lets it go on without a reader, or ends it."""
        if not self.output.has_begun:
            self._streams.settle(self)  # nothing was told of it, so there is nothing to resume
            self.stop()
            self._streams.forget(self)
        elif not self._streams.left(self):
            self._streams.abandon(self)
        elif not self._streams.is_resumable(self):
            self.stop()
        elif not self.is_over:
            self._pump = asyncio.get_running_loop().create_task(self._read_alone())

    def stop(self) -> None:
        """Ends the generation; whoever reads it gets CANCELLED."""
        self._source.close()
        if self._pump is not None:
            self._pump.cancel()
        if self._reader is not None:
            self._reader.end(RequestCancelledError())

    async def _rest(self) -> AsyncGenerator[Event, None]:
        """Yields and notes events until it is over, well or by `error`."""
        if self.is_over:
            return
        try:
            async for event in self._source:
                self._note(event)
                yield event
        except CaravanError as error:
            self.error = error
            self._streams.accounts.changed(self)
        self.is_over = True

    async def _read_alone(self) -> None:
        async with contextlib.aclosing(self._rest()) as events:
            while not self._streams.is_full(self) and await anext(events, None) is not None:
                pass

    def _note(self, event: Event) -> None:
        if self.first_token_s is None and isinstance(event, Delta):
            self.first_token_s = self._streams.clock() - self._began_s
        self.output.take(event)
        self._streams.grew(self, is_read=self.is_read)
        if isinstance(event, Started | Completed):
            self._streams.accounts.changed(self)
        else:
            self._streams.accounts.grew(self)

    async def _stop_pump(self) -> None:
        pump, self._pump = self._pump, None
        if pump is not None:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)


class RetainedStreams:
    """All generations that are kept. Owned by the event loop.

    Args:
        limits: How long and how much.
        on_abandoned: Hears of generations that nobody else accounts for: they are kept no more.
        clock: Monotonic, in seconds.
        call_later: Calls something after so many seconds.
        accounts: Hears of all of them while nobody else accounts for them.
    """

    def __init__(
        self,
        limits: RetentionLimits,
        *,
        on_abandoned: Callable[[RetainedStream], None],
        clock: Callable[[], float],
        call_later: CallLater,
        accounts: StreamAccounts,
    ) -> None:
        self._limits = limits
        self.accounts = accounts
        self._on_abandoned = on_abandoned
        self.clock = clock
        self._call_later = call_later
        self._by_name: dict[StreamName, RetainedStream] = {}
        self._by_usage: dict[str, RetainedStream] = {}
        self._sizes: dict[RetainedStream, int] = {}
        self._left: dict[RetainedStream, Timer] = {}  # those without a reader, longest first
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._by_usage)

    @property
    def num_unread(self) -> int:
        """How many have no reader."""
        return len(self._left)

    def numbers(self) -> KeptNumbers:
        """Counts what is kept; any thread may ask."""
        return KeptNumbers(len(self), self.num_unread, self.num_bytes)

    def keep(
        self, origin: StreamOrigin, source: EventSource, output: KeptOutput | None = None
    ) -> RetainedStream:
        """Keeps a generation from now on; of several with one name the latest is found.

        Args:
            origin: What it is.
            source: Its events; from now on nobody else's.
            output: What there is of it already, where another worker began it.
        """
        earlier = self._by_usage.get(origin.usage_id)
        if earlier is not None:  # it goes on anew; what it did is in `output`
            earlier.is_accounted = True
            earlier.stop()
            self.forget(earlier)
        stream = RetainedStream(self, origin, source, output or KeptOutput())
        self._by_usage[origin.usage_id] = stream
        if self.is_resumable(stream):
            self._by_name[origin.name] = stream
        self._sizes[stream] = 0
        self.accounts.changed(stream)
        self.grew(stream, is_read=True)
        return stream

    def is_resumable(self, stream: RetainedStream) -> bool:
        """Whether it goes on without a reader."""
        return stream.origin.is_resumable and self._limits.time_s > 0

    def named(self, name: StreamName) -> RetainedStream | None:
        """The generation that its owner calls so."""
        return self._by_name.get(name)

    def of_usage(self, usage_id: str) -> RetainedStream | None:
        """The generation of a usage record."""
        return self._by_usage.get(usage_id)

    def release(self, recorded: Collection[str], dropped: Collection[str]) -> None:
        """Somebody else accounts for generations, some of which end and are kept no more."""
        for usage_id in (*recorded, *dropped):
            if stream := self._by_usage.get(usage_id):
                self.settle(stream)
                if not (stream.is_read or self.is_resumable(stream)):
                    self.forget(stream)
        for usage_id in dropped:
            if stream := self._by_usage.get(usage_id):
                stream.stop()
                self.forget(stream)

    def abandon(self, stream: RetainedStream) -> None:
        """Ends a generation for good, and has it accounted for."""
        stream.stop()
        self.forget(stream)
        if not stream.is_accounted:
            stream.is_accounted = True
            self._on_abandoned(stream)

    def close(self) -> None:
        """Ends all generations. Who reads one accounts for it, and may go on elsewhere."""
        for stream in tuple(self._by_usage.values()):
            stream.is_accounted = stream.is_accounted or stream.is_read
            self.abandon(stream)

    def settle(self, stream: RetainedStream) -> None:
        """Somebody else accounts for it, or nobody need."""
        stream.is_accounted = True
        self.accounts.settled(stream.origin.usage_id)

    # ── what the streams say of themselves ──

    def entered(self, stream: RetainedStream) -> None:
        """A reader came."""
        if timer := self._left.pop(stream, None):
            timer.cancel()

    def left(self, stream: RetainedStream) -> bool:
        """Its reader left; returns whether it is kept."""
        if stream not in self._sizes or (stream.is_accounted and not self.is_resumable(stream)):
            return False
        limits, abandon = self._limits, self.abandon
        time_s = limits.time_s if self.is_resumable(stream) else limits.account_s
        self._left[stream] = self._call_later(time_s, lambda: abandon(stream))
        return True

    def is_full(self, stream: RetainedStream) -> bool:
        """Whether it has to wait for a reader."""
        return stream.output.num_bytes >= self._limits.stream_bytes

    def grew(self, stream: RetainedStream, *, is_read: bool) -> None:
        """It has more to keep."""
        if stream not in self._sizes:
            return
        if is_read:  # half, so that there is room for what nobody has read
            stream.output.trim(self._limits.stream_bytes // 2)
        self.num_bytes += stream.num_bytes - self._sizes[stream]
        self._sizes[stream] = stream.num_bytes
        while self.num_bytes > self._limits.total_bytes and self._left:
            self.abandon(self._least_wanted())
        if self.num_bytes > self._limits.total_bytes:
            self.forget(stream)  # it has a reader, and ends with it

    def _least_wanted(self) -> RetainedStream:
        """One that is over, and was most likely received; else the one that was left first."""
        over = (each for each in self._left if each.is_over and each.is_accounted)
        return next(over, None) or next(iter(self._left))

    def forget(self, stream: RetainedStream) -> None:
        """It is kept no more."""
        self.entered(stream)
        self.num_bytes -= self._sizes.pop(stream, 0)
        if self._by_usage.get(stream.origin.usage_id) is stream:
            del self._by_usage[stream.origin.usage_id]
        self.retire(stream)

    def retire(self, stream: RetainedStream) -> None:
        """Nobody reads on in it."""
        if self._by_name.get(stream.origin.name) is stream:
            del self._by_name[stream.origin.name]
