"""Threads that do one job after the other. They sleep while there is none: the cores are ggml's."""

import heapq
import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

_log = logging.getLogger(__name__)

Job = Callable[[], None]


@dataclass(order=True, slots=True)
class _Entry:
    rank: tuple[int, int]
    job: Job = field(compare=False)
    weight: int = field(compare=False)


class JobThreads:
    """A few threads and one queue: more priority first, then first come, first served.

    Args:
        name: of the threads, for whoever lists them.
        num_threads: how many.
        capacity: most weight of jobs that wait or run; one that alone is heavier is taken when
            there is no other. None: no bound.
    """

    def __init__(self, name: str, *, num_threads: int = 1, capacity: int | None = None) -> None:
        self._capacity = capacity
        self._changed = threading.Condition()
        self._queue: list[_Entry] = []
        self._numbers = itertools.count()
        self._weight = 0
        self._closing = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{index}", daemon=True)
            for index in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job, *, priority: int = 0, weight: int = 0) -> bool:
        """Hands in a job; False when there is no room for it, or no more are taken. Never waits."""
        with self._changed:
            if self._closing or not self._has_room(weight):
                return False
            self._weight += weight
            heapq.heappush(self._queue, _Entry((-priority, next(self._numbers)), job, weight))
            self._changed.notify()
            return True

    def close(self, *, finish: bool) -> None:
        """Ends the threads after the jobs under way, and after those that wait if `finish`."""
        with self._changed:
            self._closing = True
            if not finish:
                self._queue.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _has_room(self, weight: int) -> bool:
        if self._capacity is None or weight == 0 or self._weight == 0:
            return True
        return self._weight + weight <= self._capacity

    def _run(self) -> None:
        while (entry := self._next()) is not None:
            try:
                entry.job()
            except Exception:  # noqa: BLE001 - a fault in one job is no reason to do no others
                _log.exception("job failed")
            with self._changed:
                self._weight -= entry.weight

    def _next(self) -> _Entry | None:
        with self._changed:
            while not self._queue:
                if self._closing:
                    return None
                self._changed.wait()
            return heapq.heappop(self._queue)
