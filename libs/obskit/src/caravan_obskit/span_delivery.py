"""Delivers what is put into it in batches, from a task of the event loop, and never blocks.

What waits is bounded: when the receiver is away for long the oldest goes, and is counted.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import grpc
import grpc.aio

from caravan_rpckit.errors import CaravanError, Reason

T = TypeVar("T")

_log = logging.getLogger("caravan.tracing")
_FIRST_BACKOFF_S = 0.5
_LONGEST_BACKOFF_S = 30.0
# After these the same batch is tried again; any other answer is final.
_PASSING_CODES = frozenset(
    {
        *(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED),
        *(grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED),
    }
)
_PASSING_REASONS = frozenset({Reason.QUEUE_FULL, Reason.DEPENDENCY_UNAVAILABLE})


@dataclass(frozen=True, slots=True)
class DeliveryLimits:
    """Most items that wait, most in a batch, and for how long items are collected."""

    queue_size: int = 4096
    batch_size: int = 128
    interval_s: float = 0.5


class SpanDelivery(Generic[T]):
    """A bounded queue and the task that empties it. Owned by the event loop.

    Args:
        deliver: sends one batch; raises what gRPC or a Caravan service raises.
        limits: how much waits, and how long.
        on_lost: is told how many items are lost: `queue_full`, `refused` or `shutdown`.
        on_failed: is told of each batch that did not arrive, also when it is tried again.
    """

    def __init__(
        self,
        deliver: Callable[[Sequence[T]], Awaitable[None]],
        limits: DeliveryLimits,
        *,
        on_lost: Callable[[int, str], None],
        on_failed: Callable[[], None] = lambda: None,
    ) -> None:
        self._deliver = deliver
        self._limits = limits
        self._on_lost = on_lost
        self._on_failed = on_failed
        self._waiting: deque[T] = deque()
        self._filled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def num_waiting(self) -> int:
        """Items that are not delivered yet."""
        return len(self._waiting)

    def put(self, item: T) -> None:
        """Takes an item; from the thread of the event loop."""
        if len(self._waiting) >= self._limits.queue_size:
            self._waiting.popleft()
            self._on_lost(1, "queue_full")
        self._waiting.append(item)
        self._filled.set()

    def start(self) -> None:
        """Begins to deliver."""
        self._task = asyncio.create_task(self._run(), name="span delivery")
        self._task.add_done_callback(_log_death)

    async def close(self, timeout_s: float) -> None:
        """Delivers what waits, for so long, and ends."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            async with asyncio.timeout(timeout_s):
                while self._waiting and await self._deliver_batch():
                    pass
        except TimeoutError:
            _log.warning("no time left to deliver spans")
        if self._waiting:
            self._on_lost(len(self._waiting), "shutdown")
            self._waiting.clear()

    async def _run(self) -> None:
        backoff_s = 0.0
        while True:
            await self._filled.wait()
            await asyncio.sleep(backoff_s or self._limits.interval_s)
            while self._waiting:
                if not await self._deliver_batch():
                    backoff_s = min(max(2 * backoff_s, _FIRST_BACKOFF_S), _LONGEST_BACKOFF_S)
                    break
                backoff_s = 0.0
            else:
                self._filled.clear()

    async def _deliver_batch(self) -> bool:
        """Whether the oldest batch is done with; otherwise it waits on."""
        size = min(self._limits.batch_size, len(self._waiting))
        batch = [self._waiting.popleft() for _ in range(size)]
        try:
            await self._deliver(batch)
        except (grpc.aio.AioRpcError, CaravanError) as error:
            self._on_failed()
            if _is_passing(error):
                self._put_back(batch)
                return False
            _log.warning("spans refused", extra={"count": size, "cause": _cause(error)})
            self._on_lost(size, "refused")
        except (TypeError, ValueError) as error:  # a span that cannot be written
            _log.error("spans cannot be encoded", extra={"kind": type(error).__name__})
            self._on_lost(size, "refused")
        except asyncio.CancelledError:
            self._put_back(batch)
            raise
        return True

    def _put_back(self, batch: Sequence[T]) -> None:
        room = self._limits.queue_size - len(self._waiting)
        kept = batch[max(0, len(batch) - room) :]
        if len(kept) < len(batch):
            self._on_lost(len(batch) - len(kept), "queue_full")
        self._waiting.extendleft(reversed(kept))
        if kept:
            self._filled.set()


def _is_passing(error: grpc.aio.AioRpcError | CaravanError) -> bool:
    if isinstance(error, CaravanError):
        return error.reason in _PASSING_REASONS
    return error.code() in _PASSING_CODES


def _cause(error: grpc.aio.AioRpcError | CaravanError) -> str:
    return error.reason.value if isinstance(error, CaravanError) else error.code().name


def _log_death(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.critical("spans are no longer delivered", exc_info=task.exception())
