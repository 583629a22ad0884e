"""The calls in progress, and how they are ended from outside: revoked keys, shutdown, stalls."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import aclosing
from typing import Self, TypeVar

from caravan_gateway.domain.errors import (
    DrainingError,
    GatewayError,
    ReaderStalledError,
    TooManyCallsError,
)
from caravan_gateway.domain.principal import Credential, Identity

T = TypeVar("T")

_STALL_CHECK_S = 1.0
# For the handlers of calls that were ended to clean up.
_LAST_WORDS_S = 1.0

EndCall = Callable[[GatewayError], None]


class LiveCall:
    """One call in progress: a context manager around all that its task does for it."""

    def __init__(self, calls: "LiveCalls", end_call: EndCall, clock: Callable[[], float]) -> None:
        self._calls = calls
        self._end_call = end_call
        self._clock = clock
        self._client_since_s: float | None = None
        self.error: GatewayError | None = None
        self.credential: Credential | None = None
        self.identity: Identity | None = None

    @property
    def key_id(self) -> str | None:
        """The key that was used, once that is known."""
        return None if self.identity is None else self.identity.key_id

    def bind(self, credential: Credential, identity: Identity) -> None:
        """From now on the call ends when the key is revoked."""
        self.credential = credential
        self.identity = identity

    def end(self, error: GatewayError) -> None:
        """Cancels the call's task and lets the client have `error`; the first reason counts."""
        if self.error is None:
            self.error = error
            self._end_call(error)

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

    def __enter__(self) -> Self:
        self._calls.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._calls.remove(self)


class LiveCalls:
    """All calls in progress. Owned by the event loop."""

    def __init__(
        self,
        *,
        max_calls: int,
        reader_stall_s: float,
        clock: Callable[[], float],
        num_open: Callable[[], int] = lambda: 0,
    ) -> None:
        """Begins empty.

        Args:
            max_calls: most calls at once.
            reader_stall_s: seconds that a client may leave its stream unread; 0 is for ever.
            clock: monotonic, in seconds.
            num_open: calls that the server holds, among them those that are over here and whose
                clients do not read their end.
        """
        self._num_open = num_open
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

    def track(self, end_call: EndCall) -> LiveCall:
        """Returns the context of a new call, which `end_call` ends from outside.

        Entering it raises DrainingError while no new calls are taken, and TooManyCallsError while
        as many run as are allowed.
        """
        return LiveCall(self, end_call, self._clock)

    def add(self, call: LiveCall) -> None:
        """Counts a call in; done by the call itself."""
        if self._draining:
            raise DrainingError
        if max(len(self._calls) + 1, self._num_open()) > self._max_calls:
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
        await self._idle_within(_LAST_WORDS_S)

    async def _idle_within(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True
