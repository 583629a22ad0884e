"""`caravan.engine.v1.HostService` on what the host hears from its workers."""

from collections.abc import Callable, Iterable

from caravan.engine.v1 import host_service_pb2 as host_pb
from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan_rpckit.call import Call


class HostServicer:
    """Passes the latest numbers of the workers on."""

    def __init__(self, latest: Callable[[], Iterable[stats_pb.WorkerStats]]) -> None:
        self._latest = latest

    async def GetWorkerStats(
        self, _request: host_pb.GetWorkerStatsRequest, _call: Call
    ) -> host_pb.GetWorkerStatsResponse:
        """The numbers of all workers that are ready."""
        return host_pb.GetWorkerStatsResponse(workers=self._latest())
