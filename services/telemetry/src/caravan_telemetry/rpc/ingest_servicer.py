"""`caravan.telemetry.v1.IngestService`."""

from collections.abc import AsyncIterator
from functools import partial

from caravan.telemetry.v1 import ingest_service_pb2 as ingest_pb
from caravan_rpckit.call import Call
from caravan_telemetry.domain.request_record import check_batch
from caravan_telemetry.domain.usage_intake import UsageIntake
from caravan_telemetry.rpc.convert import host_report, request_record
from caravan_telemetry.rpc.peers import require_peer
from caravan_telemetry.runtime.host_streams import HostStreams
from caravan_telemetry.runtime.storing_thread import StoringThread


class IngestServicer:
    """Takes usage records from gateways and workers, and the numbers of workers from hosts."""

    def __init__(self, intake: UsageIntake, thread: StoringThread, streams: HostStreams) -> None:
        self._intake = intake
        self._thread = thread
        self._streams = streams

    async def IngestUsage(
        self, request: ingest_pb.IngestUsageRequest, call: Call
    ) -> ingest_pb.IngestUsageResponse:
        """Answers once every record is stored durably."""
        require_peer(call, "gateway", "engine")
        records = [request_record(record) for record in request.records]
        check_batch(records)
        result = await self._thread.run(partial(self._intake.take, records))
        return ingest_pb.IngestUsageResponse(
            stored_count=result.stored_count, duplicate_count=result.duplicate_count
        )

    async def StreamWorkerStats(
        self, requests: AsyncIterator[ingest_pb.StreamWorkerStatsRequest], call: Call
    ) -> ingest_pb.StreamWorkerStatsResponse:
        """Follows one host until it ends the stream."""
        require_peer(call, "engine")
        await self._streams.follow(host_report(request) async for request in requests)
        return ingest_pb.StreamWorkerStatsResponse()
