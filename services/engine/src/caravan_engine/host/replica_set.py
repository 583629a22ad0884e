"""The workers of one model: as many as wanted, each with a supervisor of its own."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from caravan_engine.host.supervisor import ReplicaState, ReplicaStatus, Supervisor

_log = logging.getLogger(__name__)

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


class DrainWorker(Protocol):
    """Drains a worker."""

    async def __call__(self, port: int, timeout_s: float, *, hands_over: bool) -> int:
        """Returns how many requests it had to end.

        Args:
            port: Of the worker.
            timeout_s: In which its requests may finish.
            hands_over: Whether another worker of this host may go on from what it has in memory.
        """
        ...


class ShareCores(Protocol):
    """Has a worker leave cores to another one, or take them back."""

    async def __call__(self, port: int, *, shares: bool) -> None:
        """Returns when it does, or can't be told."""
        ...


@dataclass(frozen=True, slots=True)
class ReplicaTools:
    """What a model's workers need of the outside.

    `make` makes the supervisor of the replica with a number. `lend` gets memory for one that
    starts beside the one with the same number, and returns how to give it back; None if there can't
    be both. `drain_timeout_s` is for workers that are too many, `on_change` is called when one is
    gone or another one took its place.
    """

    make: Callable[[int], Supervisor]
    lend: Callable[[int], Callable[[], None] | None]
    drain: DrainWorker
    share_cores: ShareCores
    drain_timeout_s: float
    on_change: Callable[[], None]


class ReplicaSet:
    """Belongs to one event loop."""

    def __init__(self, tools: ReplicaTools) -> None:
        self._tools = tools
        self._count = 0
        self._supervisors: dict[int, Supervisor] = {}
        self._leaving: dict[int, asyncio.Task[int]] = {}
        self._beside: set[Supervisor] = set()  # of the same number as one of those
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
            self._leave(index, self._tools.drain_timeout_s)

    async def retire(self, index: int, timeout_s: float) -> Drained:
        """Drains and ends one for good; `resize` brings it back."""
        self._retired.add(index)
        return Drained(1, await asyncio.shield(self._leave(index, timeout_s)))

    async def replace(self, indexes: Iterable[int], timeout_s: float) -> Drained:
        """Replaces one after the other, each before the next leaves.

        Where there is memory for both, the new one is ready before the old one is drained; if it
        never is, the old one stays.
        """
        drained = Drained()
        for index in indexes:
            if index in self._supervisors:
                drained += await self._replace(index, timeout_s)
        return drained

    def changed(self) -> None:
        """Is told of each change of a replica."""
        self._changed.set()

    async def stop(self, timeout_s: float) -> int:
        """Drains and ends all; returns how many requests were ended."""
        self._count = 0
        self._changed.set()
        drain = partial(self._tools.drain, hands_over=False)
        everyone = (*self._supervisors.values(), *self._beside)
        ended = await asyncio.gather(*(each.stop(drain, timeout_s) for each in everyone))
        await asyncio.gather(*self._leaving.values())
        return sum(ended)

    def _ensure(self, index: int, *, restart_count: int = 0) -> None:
        supervisor = self._supervisors.get(index)
        if supervisor is None or (supervisor.status.state in _OVER and index not in self._leaving):
            self._supervisors[index] = supervisor = self._tools.make(index)
            supervisor.start(restart_count=restart_count)

    def _leave(self, index: int, timeout_s: float) -> asyncio.Task[int]:
        leaving = self._leaving.get(index)
        if leaving is None:
            leaving = asyncio.create_task(self._end(index, timeout_s), name=f"end-replica-{index}")
            self._leaving[index] = leaving
        return leaving

    async def _end(self, index: int, timeout_s: float) -> int:
        drain = partial(self._tools.drain, hands_over=True)
        num_ended = await self._supervisors[index].stop(drain, timeout_s)
        before = self._supervisors.pop(index)
        del self._leaving[index]
        if index < self._count and index not in self._retired:  # it is wanted, or wanted again
            self._ensure(index, restart_count=before.status.restart_count + 1)
        self._tools.on_change()
        return num_ended

    async def _replace(self, index: int, timeout_s: float) -> Drained:
        give_back = None if index in self._leaving else self._tools.lend(index)
        if give_back is None:
            drained = Drained(1, await asyncio.shield(self._leave(index, timeout_s)))
            await self._settled(index)
            return drained
        try:
            return await self._replace_beside(index, timeout_s)
        finally:
            give_back()

    async def _replace_beside(self, index: int, timeout_s: float) -> Drained:
        """Starts the next one, lets it take the place of the one before it, and ends that."""
        before, after = self._supervisors[index], self._tools.make(index)
        drain = partial(self._tools.drain, hands_over=True)
        self._beside.add(after)
        await self._share_cores(before, shares=True)
        after.start(restart_count=before.status.restart_count + 1)
        while self._stays(index, before) and after.status.state not in _SETTLED:
            self._changed.clear()
            await self._changed.wait()
        self._beside.discard(after)
        if not self._stays(index, before) or after.status.state is not ReplicaState.READY:
            _log.warning("a worker is not replaced", extra={"detail": after.status.detail})
            await after.stop(drain, 0)
            await self._share_cores(before, shares=False)
            return Drained()
        self._supervisors[index] = after
        self._beside.add(before)
        self._tools.on_change()
        await self._share_cores(after, shares=True)
        num_ended = await before.stop(drain, timeout_s)
        self._beside.discard(before)
        await self._share_cores(after, shares=False)
        return Drained(1, num_ended)

    async def _share_cores(self, supervisor: Supervisor, *, shares: bool) -> None:
        """Threads that wait for each other at every turn stand still without a core each."""
        if (port := supervisor.status.port) is not None:
            await self._tools.share_cores(port, shares=shares)

    def _stays(self, index: int, supervisor: Supervisor) -> bool:
        """Whether a replica is still wanted, and this one is still it."""
        is_wanted = index < self._count and index not in self._leaving
        return is_wanted and self._supervisors.get(index) is supervisor

    async def _settled(self, index: int) -> None:
        """Returns when a replica is ready or was given up, or nobody wants it any more."""
        while (found := self._supervisors.get(index)) and found.status.state not in _SETTLED:
            self._changed.clear()
            await self._changed.wait()
