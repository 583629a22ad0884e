"""Tells workers of streams that are accounted for, many at a time and behind the calls' backs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field

from caravan_gateway.domain.models import Endpoint

_log = logging.getLogger("caravan.gateway.streams")

_LINGER_S = 0.5
_MAX_ATTEMPTS = 60  # some 30 s; by then a worker that doesn't answer is gone

Tell = Callable[[Endpoint, Collection[str], Collection[str]], Awaitable[bool]]


@dataclass(slots=True)
class _News:
    endpoint: Endpoint
    recorded: dict[str, int] = field(default_factory=dict)  # how many records had come in by then
    dropped: dict[str, int] = field(default_factory=dict)
    num_attempts: int = 0


class StreamLedger:
    """Implements the port. Owned by the event loop.

    Args:
        tell: tells a worker which streams are recorded, and which are to end; returns whether it
            heard it, or is gone.
        num_taken: how many usage records came in.
        num_written: how many of these survive this process.
    """

    def __init__(
        self, tell: Tell, *, num_taken: Callable[[], int], num_written: Callable[[], int]
    ) -> None:
        self._tell = tell
        self._num_taken = num_taken
        self._num_written = num_written
        self._news: dict[str, _News] = {}
        self._arrived = asyncio.Event()

    def accounted(self, worker: Endpoint, usage_id: str, *, is_wanted: bool) -> None:
        """See the port. A worker hears of a record only when it is on disk."""
        news = self._news_for(worker)
        marks = news.recorded if is_wanted else news.dropped
        marks[usage_id] = self._num_taken()

    def disowned(self, worker: Endpoint, usage_id: str) -> None:
        """See the port. The record comes later, whatever this worker does."""
        self._news_for(worker).dropped[usage_id] = 0

    async def run(self) -> None:
        """Tells until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._news:
                await self._tell_all()
                await asyncio.sleep(_LINGER_S)

    def _news_for(self, worker: Endpoint) -> _News:
        self._arrived.set()
        return self._news.setdefault(worker.worker_id, _News(worker))

    async def _tell_all(self) -> None:
        for worker_id, news in tuple(self._news.items()):
            num_written = self._num_written()
            recorded = [one for one, mark in news.recorded.items() if mark <= num_written]
            dropped = [one for one, mark in news.dropped.items() if mark <= num_written]
            news.num_attempts += 1
            if not (recorded or dropped) or await self._tell(news.endpoint, recorded, dropped):
                for usage_id in recorded:
                    del news.recorded[usage_id]
                for usage_id in dropped:
                    del news.dropped[usage_id]
                news.num_attempts = 0
            elif news.num_attempts >= _MAX_ATTEMPTS:
                _log.warning("a worker can't be told of streams", extra={"worker_id": worker_id})
                news.recorded.clear()
                news.dropped.clear()
            if not (news.recorded or news.dropped):
                del self._news[worker_id]
