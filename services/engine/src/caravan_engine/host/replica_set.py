"""The workers of one model: as many as wanted, each with a supervisor of its own."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from caravan_engine.host.supervisor import Drain, ReplicaState, ReplicaStatus, Supervisor

_OVER = frozenset({ReplicaState.FAILED, ReplicaState.ENDED})
_SETTLED = _OVER | {ReplicaState.READY}


@dataclass(frozen=True, slots=True)
class Drained:
    """What came of draining workers."""

    num_workers: int = 0
    num_ended_requests: int = 0

    def __add__(self, other: "Drained") -> "Drained":
        return Drained(
            self.num_workers + other.num_workers,
            self.num_ended_requests + other.num_ended_requests,
        )


class ReplicaSet:
    """Belongs to one event loop.

    Args:
        make: Makes the supervisor of the replica with a number.
        drain: Drains workers that are too many.
        drain_timeout_s: For so long.
        on_change: Called when a replica is gone.
    """

    def __init__(
        self,
        make: Callable[[int], Supervisor],
        drain: Drain,
        *,
        drain_timeout_s: float,
        on_change: Callable[[], None],
    ) -> None:
        self._make = make
        self._drain = drain
        self._drain_timeout_s = drain_timeout_s
        self._on_change = on_change
        self._count = 0
        self._supervisors: dict[int, Supervisor] = {}
        self._leaving: dict[int, asyncio.Task[int]] = {}
        self._retired: set[int] = set()  # drained, and not wanted before the next `resize`
        self._changed = asyncio.Event()

    @property
    def statuses(self) -> dict[int, ReplicaStatus]:
        """Every replica by its number, also those that are leaving."""
        return {index: each.status for index, each in sorted(self._supervisors.items())}

    @property
    def wanted(self) -> tuple[Supervisor, ...]:
        """Those that are to stay."""
        numbers = (index for index in sorted(self._supervisors) if index not in self._leaving)
        return tuple(self._supervisors[index] for index in numbers)

    def resize(self, count: int) -> None:
        """Starts what is missing or was given up; what is too many is drained and ended."""
        self._count = count
        self._retired.clear()
        for index in range(count):
            self._ensure(index)
        for index in [index for index in self._supervisors if index >= count]:
            self._leave(index, self._drain_timeout_s)

    async def retire(self, index: int, timeout_s: float) -> Drained:
        """Drains and ends one for good; `resize` brings it back."""
        self._retired.add(index)
        return Drained(1, await asyncio.shield(self._leave(index, timeout_s)))

    async def replace(self, indexes: Iterable[int], timeout_s: float) -> Drained:
        """Drains one after the other; each is replaced by a new one before the next leaves."""
        drained = Drained()
        for index in indexes:
            if index in self._supervisors:
                drained += Drained(1, await asyncio.shield(self._leave(index, timeout_s)))
                await self._settled(index)
        return drained

    def changed(self) -> None:
        """Is told of each change of a replica."""
        self._changed.set()

    async def stop(self, timeout_s: float) -> int:
        """Drains and ends all; returns how many requests were ended."""
        self._count = 0
        stops = (each.stop(self._drain, timeout_s) for each in self._supervisors.values())
        ended = await asyncio.gather(*stops)
        await asyncio.gather(*self._leaving.values())
        return sum(ended)

    def _ensure(self, index: int, *, restart_count: int = 0) -> None:
        supervisor = self._supervisors.get(index)
        if supervisor is None or (supervisor.status.state in _OVER and index not in self._leaving):
            self._supervisors[index] = supervisor = self._make(index)
            supervisor.start(restart_count=restart_count)

    def _leave(self, index: int, timeout_s: float) -> asyncio.Task[int]:
        leaving = self._leaving.get(index)
        if leaving is None:
            leaving = asyncio.create_task(self._end(index, timeout_s), name=f"end-replica-{index}")
            self._leaving[index] = leaving
        return leaving

    async def _end(self, index: int, timeout_s: float) -> int:
        num_ended = await self._supervisors[index].stop(self._drain, timeout_s)
        before = self._supervisors.pop(index)
        del self._leaving[index]
        if index < self._count and index not in self._retired:  # it is wanted, or wanted again
            self._ensure(index, restart_count=before.status.restart_count + 1)
        self._on_change()
        return num_ended

    async def _settled(self, index: int) -> None:
        """Returns when a replica is ready or was given up, or nobody wants it any more."""
        while (found := self._supervisors.get(index)) and found.status.state not in _SETTLED:
            self._changed.clear()
            await self._changed.wait()
