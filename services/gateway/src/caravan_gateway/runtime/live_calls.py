"""The calls in progress, and how they are ended from outside: revoked keys, shutdown, stalls."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import aclosing
from types import TracebackType
from typing import Self, TypeVar

from caravan_gateway.domain.errors import (
    DrainingError,
    GatewayError,
    ReaderStalledError,
    TooManyCallsError,
)
from caravan_gateway.domain.principal import Credential

T = TypeVar("T")

# A client that reads gets its error within this time; one that doesn't is cut off after it.
_READER_GRACE_S = 0.5
_STALL_CHECK_S = 1.0


class LiveCall:
    """One call in progress: a context manager around all that its task does for it.

    `end` makes the call's task fail with an error of our choice wherever it waits, as
    `asyncio.timeout` does with its own. While the task waits for the client to read (see
    `relayed`), the error comes with the next read; a client that does not read is cut off.
    """

    def __init__(self, calls: "LiveCalls", clock: Callable[[], float]) -> None:
        self._calls = calls
        self._clock = clock
        self._task: asyncio.Task[object] | None = None
        self._num_cancels_before = 0
        self._cancelled = False
        self._client_since_s: float | None = None
        self._cut_off: asyncio.TimerHandle | None = None
        self.error: GatewayError | None = None
        self.credential: Credential | None = None
        self.key_id: str | None = None

    def bind(self, credential: Credential, key_id: str) -> None:
        """From now on the call ends when the key is revoked."""
        self.credential = credential
        self.key_id = key_id

    def end(self, error: GatewayError) -> None:
        """Ends the call with `error`; the first reason counts."""
        if self.error is not None or self._task is None:
            return
        self.error = error
        if self._client_since_s is None:
            self._cancel()
        else:
            loop = asyncio.get_running_loop()
            self._cut_off = loop.call_later(_READER_GRACE_S, self._cut_off_reader)

    def stalled_s(self) -> float:
        """How long the client has not taken what is there for it."""
        return 0.0 if self._client_since_s is None else self._clock() - self._client_since_s

    async def relayed(self, items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """Yields `items` to the client, knowing when it is the client that is waited for."""
        async with aclosing(items) as source:
            async for item in source:
                self._client_since_s = self._clock()
                yield item
                self._client_since_s = None
                if self.error is not None:
                    raise self.error

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        if self._task is None:
            raise RuntimeError("a call is served by a task")
        self._num_cancels_before = self._task.cancelling()
        self._calls.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._calls.remove(self)
        task, self._task = self._task, None
        if self._cut_off is not None:
            self._cut_off.cancel()
        if not self._cancelled or task is None or not isinstance(error, asyncio.CancelledError):
            return
        if task.uncancel() <= self._num_cancels_before and self.error is not None:
            raise self.error from None

    def _cut_off_reader(self) -> None:
        if self._client_since_s is not None:
            self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._cancelled = True
            self._task.cancel()


class LiveCalls:
    """All calls in progress. Owned by the event loop."""

    def __init__(
        self, *, max_calls: int, reader_stall_s: float, clock: Callable[[], float]
    ) -> None:
        self._max_calls = max_calls
        self._reader_stall_s = reader_stall_s
        self._clock = clock
        self._calls: set[LiveCall] = set()
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[LiveCall]:
        return iter(tuple(self._calls))

    def track(self) -> LiveCall:
        """Returns the context of a new call.

        Entering it raises DrainingError while no new calls are taken, and TooManyCallsError while
        as many run as are allowed.
        """
        return LiveCall(self, self._clock)

    def add(self, call: LiveCall) -> None:
        """Counts a call in; done by the call itself."""
        if self._draining:
            raise DrainingError
        if len(self._calls) >= self._max_calls:
            raise TooManyCallsError(self._max_calls)
        self._calls.add(call)
        self._idle.clear()

    def remove(self, call: LiveCall) -> None:
        """Counts a call out; done by the call itself."""
        self._calls.discard(call)
        if not self._calls:
            self._idle.set()

    def end_keys(self, key_ids: Collection[str], error: Callable[[], GatewayError]) -> None:
        """Ends every call of these keys."""
        for call in self:
            if call.key_id in key_ids:
                call.end(error())

    def end_stalled(self) -> None:
        """Ends the calls whose client does not read."""
        for call in self:
            if call.stalled_s() > self._reader_stall_s:
                call.end(ReaderStalledError(self._reader_stall_s))

    async def watch_stalls(self) -> None:
        """Looks for clients that do not read, until cancelled."""
        while self._reader_stall_s > 0:
            await asyncio.sleep(_STALL_CHECK_S)
            self.end_stalled()

    async def drain(self, grace_s: float) -> None:
        """Takes no new calls, waits for the others, and ends what is left after `grace_s`."""
        self._draining = True
        if await self._idle_within(grace_s):
            return
        for call in self:
            call.end(DrainingError())
        await self._idle_within(2 * _READER_GRACE_S)

    async def _idle_within(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
