"""Sends the numbers of workers to telemetry once a second, and never waits for it elsewhere."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence

import grpc
import grpc.aio

from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan.telemetry.v1 import ingest_service_pb2 as ingest_pb
from caravan.telemetry.v1 import ingest_service_pb2_grpc as ingest_grpc
from caravan_rpckit.channel import open_channel
from caravan_rpckit.tls import TlsIdentity

_log = logging.getLogger(__name__)

_INTERVAL_S = 1.0
_MIN_PAUSE_S = 1.0
_MAX_PAUSE_S = 30.0


class TelemetryPush:
    """One client stream to telemetry, opened again with growing pauses when it breaks.

    What can't be sent is not kept: the next snapshot replaces it.
    """

    def __init__(
        self,
        address: str,
        tls: TlsIdentity,
        *,
        host_id: str,
        latest: Callable[[], Sequence[stats_pb.WorkerStats]],
    ) -> None:
        self._address = address
        self._tls = tls
        self._host_id = host_id
        self._latest = latest
        self._num_sent = 0

    async def run(self) -> None:
        """Sends until cancelled."""
        pause_s = _MIN_PAUSE_S
        while True:
            self._num_sent = 0
            code = await self._send_until_broken()
            if self._num_sent > 1:
                pause_s = _MIN_PAUSE_S
            level = logging.WARNING if pause_s == _MIN_PAUSE_S else logging.DEBUG
            _log.log(level, "telemetry takes no numbers", extra={"code": code.name})
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _MAX_PAUSE_S)

    async def _send_until_broken(self) -> grpc.StatusCode:
        try:
            async with open_channel(
                self._address, tls=self._tls, server_name="telemetry"
            ) as channel:
                await ingest_grpc.IngestServiceStub(channel).StreamWorkerStats(self._snapshots())
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async def _snapshots(self) -> AsyncIterator[ingest_pb.StreamWorkerStatsRequest]:
        while True:
            yield ingest_pb.StreamWorkerStatsRequest(host_id=self._host_id, workers=self._latest())
            self._num_sent += 1
            await asyncio.sleep(_INTERVAL_S)
