"""Composition root of the telemetry service; owns the order of start and stop."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service_pb

from caravan.telemetry.v1 import ingest_service_pb2 as ingest_pb
from caravan.telemetry.v1 import trace_query_service_pb2 as trace_query_pb
from caravan_obskit.instruments import Instruments
from caravan_obskit.logging import configure_logging
from caravan_obskit.ops_server import OpsServer
from caravan_obskit.otlp import TRACE_SERVICE
from caravan_obskit.readiness import Readiness
from caravan_obskit.span_delivery import DeliveryLimits, SpanDelivery
from caravan_obskit.tracing import Tracing, inner_sampler, lost_spans_counter
from caravan_obskit.worker_metrics import SystemCollector
from caravan_rpckit.server import RpcServer
from caravan_rpckit.tls import TlsIdentity
from caravan_servicekit.addresses import split_address
from caravan_servicekit.data_directory import DataDirectory
from caravan_telemetry.clients.collector import open_collector
from caravan_telemetry.config import TelemetrySettings
from caravan_telemetry.domain.trace_archive import TraceArchive
from caravan_telemetry.domain.usage_intake import UsageIntake
from caravan_telemetry.domain.worker_totals import WorkerTotals
from caravan_telemetry.metrics import IngestMetrics, SpanMetrics, UsageMetrics, declare_gauges
from caravan_telemetry.rpc.ingest_servicer import IngestServicer
from caravan_telemetry.rpc.trace_query_servicer import TraceQueryServicer
from caravan_telemetry.rpc.trace_servicer import PassOn, TraceServicer
from caravan_telemetry.runtime.host_streams import HostStreams
from caravan_telemetry.runtime.retention import remove_expired_forever
from caravan_telemetry.runtime.storing_thread import StoringThread
from caravan_telemetry.storage.database import Database
from caravan_telemetry.storage.request_records import SqlRequestStore
from caravan_telemetry.storage.spans import SqlSpanStore

SERVICE = "telemetry"
_PEERS = ("gateway", "engine")
_SPAN_PEERS = ("gateway", "engine", "policy", "telemetry")
_FORWARDING_S = 2.0
_log = logging.getLogger("caravan.telemetry")
_INGEST = ingest_pb.DESCRIPTOR.services_by_name["IngestService"]
_TRACE_QUERY = trace_query_pb.DESCRIPTOR.services_by_name["TraceQueryService"]


class TelemetryApp:
    """The service as its process sees it.

    Start: data directory, database, gRPC, ops port, ready. Stop: the other way round, after the
    batches that were taken on are stored. `rpc_port` and `ops_port` tell what port 0 became.
    """

    def __init__(self, settings: TelemetrySettings) -> None:
        self._settings = settings
        self.rpc_port = 0
        self.ops_port = 0
        self._instruments = Instruments()
        self._readiness = Readiness(("serving",))
        self._totals = WorkerTotals(
            clock=time.monotonic,
            silence_limit_s=settings.workers.silence_limit_s,
            remembered_limit=settings.workers.remembered_limit,
            model_limit=settings.workers.model_limit,
        )
        self._streams = HostStreams(self._totals)
        self._thread = StoringThread(queue_limit=settings.usage.queue_limit)
        self._span_metrics = SpanMetrics(self._instruments)
        self._tracing = Tracing(
            SERVICE, sampler=inner_sampler(), on_lost=lost_spans_counter(self._instruments)
        )
        self._database: Database | None = None
        self._server = self._make_server()
        self._resources = contextlib.AsyncExitStack()

    @classmethod
    def create(cls, settings: TelemetrySettings) -> "TelemetryApp":
        """Makes the one application of this process."""
        configure_logging(SERVICE, level=settings.log.level)
        return cls(settings)

    async def start(self) -> None:
        """Becomes ready.

        Raises:
            CaravanError: the data directory, the database, the certificates or a port can't be
                used.
        """
        data = self._resources.enter_context(DataDirectory.open(self._settings.home, SERVICE))
        database_path = data.path / "telemetry.db"
        intake = await self._open_intake(database_path)
        self._server.add(IngestServicer(intake, self._thread, self._streams), _INGEST, peers=_PEERS)
        archive = self._add_traces(self._database_in_use())
        self._resources.push_async_callback(self._server.stop, 0)
        await self._server.start()
        self.rpc_port = self._server.port
        await self._start_ops(database_path)
        self._start_removals(intake, archive)
        self._server.set_all_serving(True)
        self._readiness.met("serving")

    async def drain(self) -> None:
        """Sends engine hosts away, answers the calls that run, and stores what was taken on."""
        self._readiness.unmet("serving", "draining")
        self._streams.drain()
        await self._server.stop(self._settings.server.drain_timeout_s)

    async def stop(self) -> None:
        """Ends what is left and frees everything."""
        await self._resources.aclose()

    def _make_server(self) -> RpcServer:
        return RpcServer(
            self._settings.server.address,
            tls=TlsIdentity.in_home(self._settings.home, SERVICE),
            observers=(IngestMetrics(self._instruments),),
            tracing=self._tracing.calls,
        )

    async def _open_intake(self, path: Path) -> UsageIntake:
        self._resources.push_async_callback(self._close_storage)
        self._database = await self._thread.run(partial(Database, path))
        meter = UsageMetrics(self._instruments, model_limit=self._settings.workers.model_limit)
        return UsageIntake(SqlRequestStore(self._database), meter, now_ms=_now_ms)

    def _add_traces(self, database: Database) -> TraceArchive:
        settings = self._settings.traces
        archive = TraceArchive(
            SqlSpanStore(database),
            self._span_metrics,
            max_spans=settings.max_spans,
            retention_h=settings.retention_h,
            now_ms=_now_ms,
        )
        spare_places = self._settings.usage.queue_limit // 2  # usage records matter more
        spans = TraceServicer(
            archive,
            self._thread,
            spare_places=spare_places,
            pass_on=self._start_forwarding(),
            on_rejected=self._span_metrics.rejected,
        )
        self._server.add(spans, TRACE_SERVICE, peers=_SPAN_PEERS)
        query = TraceQueryServicer(archive, self._thread, spare_places=spare_places)
        self._server.add(query, _TRACE_QUERY, peers=("gateway",))

        async def deliver(request: trace_service_pb.ExportTraceServiceRequest) -> None:
            await spans.take(request)

        self._resources.push_async_callback(self._tracing.close)
        self._tracing.start(deliver)
        return archive

    def _start_forwarding(self) -> PassOn | None:
        """Begins to pass spans on to another collector, if there is one."""
        url = self._settings.traces.forward_url
        if url is None:
            return None
        channel, send = open_collector(url)
        self._resources.push_async_callback(channel.close)

        async def deliver(requests: Sequence[trace_service_pb.ExportTraceServiceRequest]) -> None:
            merged = trace_service_pb.ExportTraceServiceRequest()
            for request in requests:
                merged.MergeFrom(request)
            await send(merged)

        delivery = SpanDelivery(
            deliver,
            DeliveryLimits(queue_size=self._settings.traces.forward_queue_batches, batch_size=4),
            on_lost=self._span_metrics.forward_lost,
            on_failed=self._span_metrics.forward_failed,
        )
        self._resources.push_async_callback(delivery.close, _FORWARDING_S)
        delivery.start()
        return delivery.put

    def _database_in_use(self) -> Database:
        if self._database is None:
            raise RuntimeError("the database is opened before what uses it is made")
        return self._database

    async def _close_storage(self) -> None:
        await self._thread.close()
        if self._database is not None:
            self._database.close()

    async def _start_ops(self, database_path: Path) -> None:
        self._instruments.registry.register(SystemCollector(self._totals.system))
        declare_gauges(
            self._instruments,
            live_hosts=lambda: self._totals.live_host_count,
            queued_batches=lambda: self._thread.queued_count,
            database_bytes=lambda: _size_of(database_path),
        )
        host, port = split_address(self._settings.server.ops_address)
        ops = OpsServer(
            port, host=host, registry=self._instruments.registry, readiness=self._readiness
        )
        self.ops_port = await ops.start_in(self._resources)

    def _start_removals(self, intake: UsageIntake, archive: TraceArchive) -> None:
        usage = self._settings.usage
        self._remove_forever(partial(intake.remove_expired, retention_days=usage.retention_days))
        self._remove_forever(archive.remove_expired)

    def _remove_forever(self, remove_expired: "_Remove") -> None:
        async def remove(limit: int) -> int:
            return await self._thread.run(partial(remove_expired, limit=limit))

        removal = asyncio.create_task(
            remove_expired_forever(remove, interval_s=self._settings.usage.removal_interval_s)
        )
        removal.add_done_callback(_log_death)
        self._resources.push_async_callback(_end, removal)


class _Remove(Protocol):
    """Removes up to `limit` of something, and returns how many; blocks."""

    def __call__(self, *, limit: int) -> int: ...


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _size_of(path: Path) -> int:
    """0 once somebody has moved the file away: that must not cost all other metrics."""
    return path.stat().st_size if path.exists() else 0


def _log_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.critical("old records are no longer removed", exc_info=task.exception())


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
