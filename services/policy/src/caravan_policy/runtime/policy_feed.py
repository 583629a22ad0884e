"""Tells watchers of changes, within bounds: few watchers, short buffers."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from caravan_policy.domain.errors import (
    DrainingError,
    PolicyError,
    ReaderStalledError,
    TooManyWatchersError,
)


@dataclass(frozen=True, slots=True)
class PolicyEvent:
    """The version from now on, and the keys that stopped working with it."""

    policy_version: int
    revoked_key_ids: tuple[str, ...] = ()


class PolicyFeed:
    """The present version and who watches it. Owned by the event loop."""

    def __init__(self, policy_version: int, *, max_watchers: int, buffered_events: int) -> None:
        self._policy_version = policy_version
        self._max_watchers = max_watchers
        self._buffered_events = buffered_events
        self._watchers: set[_Watcher] = set()
        self._closed = False

    @property
    def num_watchers(self) -> int:
        """How many watch now."""
        return len(self._watchers)

    def publish(self, event: PolicyEvent) -> None:
        """Tells everybody. Who has not read the last `buffered_events` events is ended."""
        self._policy_version = event.policy_version
        for watcher in list(self._watchers):
            if not watcher.put(event):
                watcher.end(ReaderStalledError())
                self._watchers.discard(watcher)

    async def watch(self) -> AsyncGenerator[PolicyEvent, None]:
        """Yields the present version at once, then every change.

        Raises:
            TooManyWatchersError: all places are taken.
            ReaderStalledError: events were lost, because they were not read in time.
            DrainingError: the feed was closed.
        """
        watcher = self._admit()
        try:
            while True:
                yield await watcher.next()
        finally:
            self._watchers.discard(watcher)

    def close(self) -> None:
        """Ends all watchers, once they have read what is buffered, and admits no more."""
        self._closed = True
        for watcher in self._watchers:
            watcher.end(DrainingError())

    def _admit(self) -> "_Watcher":
        if self._closed:
            raise DrainingError
        if len(self._watchers) >= self._max_watchers:
            raise TooManyWatchersError(self._max_watchers)
        watcher = _Watcher(self._buffered_events)
        watcher.put(PolicyEvent(self._policy_version))
        self._watchers.add(watcher)
        return watcher


class _Watcher:
    """One buffer. A queue of asyncio would do, but can't end with an error behind its events."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._events: deque[PolicyEvent] = deque()
        self._wake = asyncio.Event()
        self._end: PolicyError | None = None

    def put(self, event: PolicyEvent) -> bool:
        """Buffers `event`, or drops the buffer and returns False when it is full."""
        if len(self._events) >= self._capacity:
            self._events.clear()
            return False
        self._events.append(event)
        self._wake.set()
        return True

    def end(self, error: PolicyError) -> None:
        self._end = error
        self._wake.set()

    async def next(self) -> PolicyEvent:
        while not self._events:
            if self._end is not None:
                raise self._end
            self._wake.clear()
            await self._wake.wait()
        return self._events.popleft()
