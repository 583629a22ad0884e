"""The workers of one model: as many as wanted, each with a supervisor of its own."""

import asyncio
from collections.abc import Callable

from caravan_engine.host.supervisor import Drain, ReplicaState, ReplicaStatus, Supervisor

_OVER = frozenset({ReplicaState.FAILED, ReplicaState.ENDED})


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
        self._leaving: dict[int, asyncio.Task[None]] = {}

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
        for index in range(count):
            self._ensure(index)
        for index in [index for index in self._supervisors if index >= count]:
            if index not in self._leaving:
                leaving = asyncio.create_task(self._end(index), name=f"end-replica-{index}")
                self._leaving[index] = leaving

    async def stop(self, timeout_s: float) -> int:
        """Drains and ends all; returns how many requests were ended."""
        self._count = 0
        stops = (each.stop(self._drain, timeout_s) for each in self._supervisors.values())
        ended = await asyncio.gather(*stops)
        await asyncio.gather(*self._leaving.values())
        return sum(ended)

    def _ensure(self, index: int) -> None:
        supervisor = self._supervisors.get(index)
        if supervisor is None or (supervisor.status.state in _OVER and index not in self._leaving):
            self._supervisors[index] = supervisor = self._make(index)
            supervisor.start()

    async def _end(self, index: int) -> None:
        await self._supervisors[index].stop(self._drain, self._drain_timeout_s)
        del self._supervisors[index], self._leaving[index]
        if index < self._count:  # it is wanted again
            self._ensure(index)
        self._on_change()
