"""`caravan.engine.v1.HostService` on the model manager and what its workers say."""

import logging
from collections.abc import Callable, Iterable

from caravan.engine.v1 import host_service_pb2 as host_pb
from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan_engine.host.model_manager import ModelManager
from caravan_rpckit.call import Call

_log = logging.getLogger(__name__)


class HostServicer:
    """Passes the latest numbers of the workers on, and drains them.

    `drain_timeout_s` holds where the caller says nothing.
    """

    def __init__(
        self,
        latest: Callable[[], Iterable[stats_pb.WorkerStats]],
        models: ModelManager,
        *,
        drain_timeout_s: float,
    ) -> None:
        self._latest = latest
        self._models = models
        self._drain_timeout_s = drain_timeout_s

    async def GetWorkerStats(
        self, _request: host_pb.GetWorkerStatsRequest, _call: Call
    ) -> host_pb.GetWorkerStatsResponse:
        """The numbers of all workers that are ready."""
        return host_pb.GetWorkerStatsResponse(workers=self._latest())

    async def DrainWorkers(
        self, request: host_pb.DrainWorkersRequest, _call: Call
    ) -> host_pb.DrainWorkersResponse:
        """Drains workers, and says so in the log."""
        has = request.HasField
        drained = await self._models.drain(
            request.model if has("model") else None,
            request.replica_index if has("replica_index") else None,
            request.timeout_ms / 1000 if has("timeout_ms") else self._drain_timeout_s,
            restart=request.restart,
        )
        extra = {"worker_count": drained.num_workers, "restart": request.restart}
        _log.info("workers drained", extra=extra)
        return host_pb.DrainWorkersResponse(
            worker_count=drained.num_workers, ended_request_count=drained.num_ended_requests
        )
