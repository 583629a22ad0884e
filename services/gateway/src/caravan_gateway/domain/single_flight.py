"""Several callers with one question cause one upstream call."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SingleFlight(Generic[K, V]):
    """Shares one run per key among all who ask while it lasts. Owned by the event loop.

    The run is a task of its own: a caller that leaves does not take the answer from the others.
    So `work` has to be bounded in time by itself.
    """

    def __init__(self) -> None:
        self._running: dict[K, asyncio.Task[V]] = {}

    def __len__(self) -> int:
        return len(self._running)

    async def run(self, key: K, work: Callable[[], Awaitable[V]]) -> V:
        """Returns what `work` gives, or what the run that is under way gives."""
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(_call(work))
            self._running[key] = task
            task.add_done_callback(lambda done: self._finished(key, done))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Ends every run."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finished(self, key: K, task: asyncio.Task[V]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # marks it as seen where every caller has left


async def _call(work: Callable[[], Awaitable[V]]) -> V:
    return await work()
