"""The latest value of something, for any number of watchers up to a limit."""

import asyncio
from collections.abc import AsyncIterator
from typing import Generic, TypeVar

from caravan_engine.host.errors import TooManyWatchersError

T = TypeVar("T")


class Broadcast(Generic[T]):
    """Gives watchers the value at once and after changes. Belongs to one event loop.

    A slow watcher misses values that were replaced before it read them, so nothing queues up: a
    queue per watcher, the obvious way, grows with whoever does not read.
    """

    def __init__(self, value: T, *, max_watchers: int) -> None:
        self._value = value
        self._max_watchers = max_watchers
        self._num_watchers = 0
        self._version = 1
        self._closed = False
        self._changed = asyncio.Event()

    @property
    def value(self) -> T:
        """The latest value."""
        return self._value

    @property
    def num_watchers(self) -> int:
        """How many watch now."""
        return self._num_watchers

    @property
    def closed(self) -> bool:
        """Whether the value is final."""
        return self._closed

    def publish(self, value: T) -> None:
        """Replaces the value; an equal one disturbs nobody."""
        if value != self._value:
            self._value = value
            self._wake()

    def close(self) -> None:
        """Ends every watch after the latest value."""
        self._closed = True
        self._wake()

    async def watch(self) -> AsyncIterator[T]:
        """Yields the value and each later one that it comes to see, until `close`.

        Raises:
            TooManyWatchersError: the limit is reached.
        """
        if self._num_watchers >= self._max_watchers:
            raise TooManyWatchersError(self._max_watchers)
        self._num_watchers += 1
        try:
            seen = 0
            while True:
                changed = self._changed
                if seen != self._version:
                    seen = self._version
                    yield self._value
                elif self._closed:
                    return
                else:
                    await changed.wait()
        finally:
            self._num_watchers -= 1

    def _wake(self) -> None:
        self._version += 1
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
