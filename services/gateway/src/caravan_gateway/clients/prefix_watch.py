"""Hears from each worker which beginnings of texts it has."""

import asyncio
from collections.abc import Iterable

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan_gateway.clients.watching import watch_forever
from caravan_gateway.clients.worker_channels import WorkerChannels
from caravan_gateway.domain.affinity import HeldPrefixes
from caravan_gateway.domain.models import Endpoint


class PrefixWatch:
    """One stream for each worker that takes requests. Owned by the event loop."""

    def __init__(self, workers: WorkerChannels, held: HeldPrefixes) -> None:
        self._workers = workers
        self._held = held
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def follow(self, endpoints: Iterable[Endpoint]) -> None:
        """Begins with workers that are new, and ends with those that are gone."""
        wanted = {endpoint.worker_id: endpoint for endpoint in endpoints}
        for worker_id in self._tasks.keys() - wanted.keys():
            self._tasks.pop(worker_id).cancel()
            self._held.lost(worker_id)
        for worker_id in wanted.keys() - self._tasks.keys():
            watching = self._watch(wanted[worker_id])
            self._tasks[worker_id] = asyncio.create_task(watching, name=f"prefixes-{worker_id}")

    async def close(self) -> None:
        """Ends every stream."""
        tasks = tuple(self._tasks.values())
        self.follow(())
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, endpoint: Endpoint) -> None:
        worker_id = endpoint.worker_id
        listener = _Listener(worker_id, self._held)
        with self._workers.watched(endpoint) as watch_prefixes:
            await watch_forever(watch_prefixes, listener, source=f"prefixes of {worker_id}")


class _Listener:
    """Takes the news of one worker."""

    def __init__(self, worker_id: str, held: HeldPrefixes) -> None:
        self._worker_id = worker_id
        self._held = held

    def heard(self, message: worker_pb.WatchPrefixesResponse, *, first: bool) -> None:
        self._held.heard(self._worker_id, message.hashes)

    def lost(self, detail: str) -> None:
        self._held.lost(self._worker_id)
