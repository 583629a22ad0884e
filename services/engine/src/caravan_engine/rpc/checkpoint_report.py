"""What a worker says of its checkpoints, and how it gives them up."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from caravan.engine.v1 import checkpoints_pb2 as checkpoints_pb
from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan_engine.domain.kv_numbers import DiskStats
from caravan_engine.rpc.convert_checkpoints import Journaled, to_checkpoints
from caravan_engine.rpc.stream_recovery import StreamRecovery
from caravan_engine.runtime.request_journal import RequestJournal

_log = logging.getLogger(__name__)


class PagePruner(Protocol):
    """What is needed of the decode loop; see `EngineLoop`."""

    def prune_pages(self) -> Future[int]:
        """Removes pages from disk that nobody needs now."""
        ...


class CheckpointReport:
    """Owned by the event loop.

    Args:
        pruner: Gives up pages.
        streams: Has the requests of an earlier worker.
        journal: Has all requests; None if there is none.
        disk: Tells what is on disk; None where there are no pages.
        replica_index: Of the worker.
    """

    def __init__(
        self,
        pruner: PagePruner,
        streams: StreamRecovery,
        journal: RequestJournal | None,
        disk: Callable[[], DiskStats] | None,
        *,
        replica_index: int,
    ) -> None:
        self._pruner = pruner
        self._streams = streams
        self._journal = journal
        self._disk = disk
        self._replica_index = replica_index

    def tell(self, model: str) -> checkpoints_pb.WorkerCheckpoints:
        """Returns what there is at this moment."""
        journaled = None
        if journal := self._journal:
            journaled = Journaled(journal.stats(), journal.live(), self._streams.handles)
        disk = self._disk() if self._disk else None
        return to_checkpoints(model, self._replica_index, journaled, disk)

    async def prune(self, model: str) -> worker_pb.PruneCheckpointsResponse:
        """Gives up what nobody needs now, and says so in the log."""
        num_requests = self._streams.give_up()
        num_pages = await asyncio.wrap_future(self._pruner.prune_pages())
        extra = {"model": model, "request_count": num_requests, "page_count": num_pages}
        _log.info("checkpoints pruned", extra=extra)
        return worker_pb.PruneCheckpointsResponse(
            dropped_request_count=num_requests, dropped_page_count=num_pages
        )
