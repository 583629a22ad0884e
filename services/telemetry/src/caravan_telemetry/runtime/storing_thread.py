"""The one thread on which everything that touches the database runs."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from caravan_telemetry.domain.errors import DrainingError, IntakeFullError

Result = TypeVar("Result")


class StoringThread:
    """Runs blocking work in order, one piece after the other, with a bounded queue.

    Belongs to the event loop. Work that has begun runs to its end even when its caller leaves.
    """

    def __init__(self, *, queue_limit: int) -> None:
        self._queue_limit = queue_limit
        self._queued = 0
        self._closed = False
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="storing")

    @property
    def queued_count(self) -> int:
        """Pieces of work that wait or run."""
        return self._queued

    async def run(self, work: Callable[[], Result], *, spare_places: int = 0) -> Result:
        """Runs `work` on the thread and returns what it returns.

        Args:
            work: blocks.
            spare_places: places in the queue that are left to others, for work that matters less.

        Raises:
            IntakeFullError: too much work waits; nothing was done.
            DrainingError: the thread was closed; nothing was done.
        """
        if self._closed:
            raise DrainingError
        if self._queued >= max(1, self._queue_limit - spare_places):
            raise IntakeFullError(self._queue_limit)
        self._queued += 1
        future = self._executor.submit(work)
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._count_down))
        return await asyncio.wrap_future(future)

    async def close(self) -> None:
        """Waits for what was taken on, then ends the thread."""
        self._closed = True
        await asyncio.to_thread(self._executor.shutdown)

    def _count_down(self) -> None:
        self._queued -= 1
