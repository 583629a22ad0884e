"""The host's calls to its own workers: draining them and watching their numbers."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import grpc
import grpc.aio

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.engine.v1 import worker_service_pb2_grpc as worker_grpc
from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan_engine.host.broadcast import Broadcast
from caravan_engine.host.models import Picture
from caravan_engine.host.progress_watch import ProgressWatch, WorkerActivity
from caravan_rpckit.channel import open_channel
from caravan_rpckit.tls import TlsIdentity

_log = logging.getLogger(__name__)

_RETRY_S = 1.0
_LOOK_INTERVAL_S = 1.0
_DRAIN_MARGIN_S = 5.0
_SHARE_TIMEOUT_S = 5.0


class WorkerClient:
    """Opens channels to workers by port; all show the engine's certificate.

    `handover_s` is what a drained worker may take after its time.
    """

    def __init__(self, host: str, tls: TlsIdentity, *, handover_s: float = 0.0) -> None:
        self._host = host
        self._tls = tls
        self._drain_margin_s = handover_s + _DRAIN_MARGIN_S

    def channel(self, port: int) -> grpc.aio.Channel:
        """Opens a channel to the worker on `port`."""
        address = f"{self._host}:{port}"
        return open_channel(address, tls=self._tls, server_name="engine")

    async def drain(self, port: int, timeout_s: float, *, hands_over: bool) -> int:
        """Drains the worker on `port`; returns how many requests it had to end.

        A worker that can't be reached, or dies meanwhile, has nothing left to drain.
        """
        request = worker_pb.DrainRequest(timeout_ms=round(timeout_s * 1000), hands_over=hands_over)
        try:
            async with self.channel(port) as channel:
                stub = worker_grpc.WorkerServiceStub(channel)
                answer = await stub.Drain(request, timeout=timeout_s + self._drain_margin_s)
        except grpc.aio.AioRpcError as error:
            _log.warning(
                "draining a worker failed", extra={"port": port, "code": error.code().name}
            )
            return 0
        return int(answer.ended_request_count)

    async def share_cores(self, port: int, *, shares: bool) -> None:
        """Has the worker on `port` leave cores to another one, or take them back.

        One that can't be reached is slower for a time, nothing else.
        """
        request = worker_pb.ShareCoresRequest(shares=shares)
        with contextlib.suppress(grpc.aio.AioRpcError):
            async with self.channel(port) as channel:
                stub = worker_grpc.WorkerServiceStub(channel)
                await stub.ShareCores(request, timeout=_SHARE_TIMEOUT_S)


class HangWatch:
    """Follows the steps of workers, one at a time per call. Belongs to the event loop."""

    def __init__(self, channel: Callable[[int], grpc.aio.Channel], timeout_s: float) -> None:
        self._channel = channel
        self._timeout_s = timeout_s

    async def __call__(self, port: int) -> str:
        """Returns when the worker on `port` hangs, and says how."""
        progress = ProgressWatch(self._timeout_s, _LOOK_INTERVAL_S)
        hearing = asyncio.create_task(self._hear(port, progress), name=f"hang-watch-{port}")
        hearing.add_done_callback(_log_crash)
        try:
            while True:
                await asyncio.sleep(_LOOK_INTERVAL_S)
                if progress.look():
                    return f"made no step for {self._timeout_s:g} s while work waited"
        finally:
            hearing.cancel()

    async def _hear(self, port: int, progress: ProgressWatch) -> None:
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                async with self._channel(port) as channel:
                    stub = worker_grpc.WorkerServiceStub(channel)
                    async for answer in stub.WatchStats(worker_pb.WatchStatsRequest()):
                        progress.heard(_activity(answer.stats))
            await asyncio.sleep(_RETRY_S)


def _activity(stats: stats_pb.WorkerStats) -> WorkerActivity:
    return WorkerActivity(
        num_steps=stats.steps_total,
        is_stepping=stats.step_running,
        num_running=stats.running_count,
        num_paused=stats.paused_count,
        num_waiting=stats.waiting_count,
    )


class StatsWatch:
    """Holds the latest numbers of each live worker.

    `latest` may be called from any thread; all else belongs to the event loop.
    """

    def __init__(
        self, picture: Broadcast[Picture], channel: Callable[[int], grpc.aio.Channel]
    ) -> None:
        self._picture = picture
        self._channel = channel
        self._latest: dict[str, stats_pb.WorkerStats] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def latest(self) -> list[stats_pb.WorkerStats]:
        """The newest numbers of all workers that are ready."""
        return list(self._latest.values())

    async def run(self) -> None:
        """Follows workers as they come and go, until cancelled or the picture ends."""
        try:
            async for picture in self._picture.watch():
                self._follow({end.worker_id: end.port for end in picture.endpoints})
        finally:
            self._follow({})

    def _follow(self, ports: dict[str, int]) -> None:
        for worker_id in set(self._tasks) - set(ports):
            self._tasks.pop(worker_id).cancel()
            self._latest.pop(worker_id, None)
        for worker_id, port in ports.items():
            if worker_id not in self._tasks:
                task = asyncio.create_task(self._watch(worker_id, port))
                task.add_done_callback(_log_crash)
                self._tasks[worker_id] = task

    async def _watch(self, worker_id: str, port: int) -> None:
        while True:
            # A worker that dies is the supervisor's business; here it only stops talking.
            with contextlib.suppress(grpc.aio.AioRpcError):
                async with self._channel(port) as channel:
                    stub = worker_grpc.WorkerServiceStub(channel)
                    async for answer in stub.WatchStats(worker_pb.WatchStatsRequest()):
                        self._latest[worker_id] = answer.stats
            await asyncio.sleep(_RETRY_S)


def _log_crash(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.error("the numbers of a worker are lost", exc_info=task.exception())
