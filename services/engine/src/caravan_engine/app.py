"""Composition root of the engine host; owns the order of its start and its end.

Start: data directory, gRPC, ops port, then the models. It is ready when each model that is loaded
at the start is ready or has failed, and one of them is ready. The end: endpoints are withdrawn,
workers drained and ended, then the ports closed.
"""

import asyncio
import contextlib
import logging
import sys
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path

from caravan.engine.v1 import host_service_pb2 as host_pb
from caravan.model.v1 import endpoint_service_pb2 as endpoint_pb
from caravan.model.v1 import model_service_pb2 as model_pb
from caravan_bundled_model import model_path as bundled_model_path
from caravan_engine.backends.gguf_file import read_gguf
from caravan_engine.clients.left_accounts import LeftAccounts
from caravan_engine.clients.telemetry import TelemetryPush
from caravan_engine.clients.workers import HangWatch, StatsWatch, WorkerClient
from caravan_engine.config import EngineSettings, WorkersSettings
from caravan_engine.control.events import Progress
from caravan_engine.control.settings import account_directory
from caravan_engine.host.launcher import WorkerLauncher
from caravan_engine.host.memory_needs import memory_need
from caravan_engine.host.model_manager import ModelManager
from caravan_engine.host.placement import MemoryBudget, MemoryNeed, WorkerPorts
from caravan_engine.host.registry import ModelFile, Registry
from caravan_engine.host.restart_policy import RestartPolicy, RestartRules
from caravan_engine.host.served_model import LoadTools, ServedModel, WorkerOrder
from caravan_engine.host.supervisor import Supervisor, SupervisorTimes
from caravan_engine.machine import available_memory_bytes, port_is_free
from caravan_engine.metrics import HostMetrics
from caravan_engine.rpc.endpoint_servicer import EndpointServicer
from caravan_engine.rpc.host_servicer import HostServicer
from caravan_engine.rpc.model_servicer import ModelServicer
from caravan_engine.storage.account_file import AccountFolder
from caravan_engine.storage.digest_cache import DigestCache
from caravan_engine.storage.handover_folder import handover_directories, handover_directory
from caravan_engine.storage.handover_place import HandoverPlace
from caravan_engine.storage.model_files import describe, find_models, sha256_of
from caravan_engine.storage.owned_folder import remove_abandoned
from caravan_obskit.instruments import Instruments
from caravan_obskit.logging import configure_logging
from caravan_obskit.ops_server import OpsServer
from caravan_obskit.readiness import Readiness
from caravan_obskit.tracing import Tracing, inner_sampler, lost_spans_counter, no_sampler
from caravan_obskit.worker_metrics import ReplicaCollector
from caravan_rpckit.channel import open_channel
from caravan_rpckit.errors import CaravanError
from caravan_rpckit.server import RpcServer
from caravan_rpckit.tls import TlsIdentity
from caravan_servicekit.addresses import split_address
from caravan_servicekit.data_directory import DataDirectory

SERVICE = "engine"
_BUNDLED = "bundled"
_MEMORY_SHARE = 0.9
_OWN_WATCHERS = 2
_MODELS = model_pb.DESCRIPTOR.services_by_name["ModelService"]
_HOST = host_pb.DESCRIPTOR.services_by_name["HostService"]
_ENDPOINTS = endpoint_pb.DESCRIPTOR.services_by_name["EndpointService"]
_ANY_HOST = ("0.0.0.0", "::", "[::]", "")  # noqa: S104 (compared with, not bound to)

_log = logging.getLogger(__name__)


class EngineApp:
    """The engine host as its process sees it.

    `rpc_port` and `ops_port` tell what port 0 became.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._host_id = uuid.uuid4().hex
        self._tls = TlsIdentity.in_home(settings.home, SERVICE)
        self._instruments = Instruments()
        self._metrics = HostMetrics(self._instruments)
        self._readiness = Readiness(("serving", "models"))
        self._budget = MemoryBudget(_budget_bytes(settings.workers))
        self._workers = WorkerClient(
            _reachable(settings.workers.listen_host),
            self._tls,
            handover_s=settings.handover.time_s,
        )
        self._handovers = HandoverPlace(
            handover_directory(settings.handover, settings.home),
            settings.handover.keep_s,
            is_own=settings.handover.directory is None,
        )
        self._tracing = Tracing(
            SERVICE,
            sampler=no_sampler() if settings.telemetry.address is None else inner_sampler(),
            on_lost=lost_spans_counter(self._instruments),
        )
        self._server = RpcServer(
            settings.server.address, tls=self._tls, tracing=self._tracing.calls
        )
        self._resources = contextlib.AsyncExitStack()
        self._manager: ModelManager | None = None
        self.rpc_port = 0
        self.ops_port = 0

    @classmethod
    def create(cls, settings: EngineSettings) -> "EngineApp":
        """Makes the one application of this process."""
        configure_logging(SERVICE, level=settings.log.level)
        return cls(settings)

    async def start(self) -> None:
        """Serves, then loads the models; returns when it is ready.

        Raises:
            CaravanError: the data directory, the certificates or a port can't be used.
        """
        data = self._resources.enter_context(DataDirectory.open(self._settings.home, SERVICE))
        if self._settings.models.directory is None:  # another folder is somebody else's
            self._settings.model_directory.mkdir(parents=True, exist_ok=True)
        manager = self._make_manager(data.path)
        self._manager = manager
        await manager.refresh()
        self._start_tracing()
        await self._prepare_handovers()
        self._resources.push_async_callback(manager.shut_down, 0)
        loads = await self._begin_loads(manager)
        stats = StatsWatch(manager.picture, self._workers.channel)
        await self._start_server(manager, stats)
        await self._start_ops(manager, stats)
        self._in_background(stats.run())
        self._tell_telemetry(stats)
        if self._settings.models.rescan_interval_s:
            self._in_background(self._rescan_forever(manager))
        await self._await_loads(manager, loads)

    async def drain(self) -> None:
        """Withdraws the endpoints, lets running requests finish, and ends the workers."""
        self._readiness.unmet("models", "draining")
        self._server.set_serving(_MODELS.full_name, serving=False)
        if self._manager is not None:
            await self._manager.shut_down(self._settings.workers.drain_timeout_s)

    async def stop(self) -> None:
        """Ends what is left and frees everything."""
        await self._resources.aclose()

    def _make_manager(self, data: Path) -> ModelManager:
        models = self._settings.models
        bundled = _bundled_model()
        given = [models.path] if models.path is not None else []
        registry = Registry(
            sources=(
                lambda: [describe(path) for path in given],
                partial(find_models, self._settings.model_directory),
                lambda: [describe(path) for path in bundled],
            ),
            aliases={_BUNDLED: bundled[0].resolve()} if bundled else {},
        )
        tools = LoadTools(
            digests=DigestCache(data / "digests.json"),
            hash_file=sha256_of,
            memory_need=self._memory_need,
            budget=self._budget,
            supervise=self._supervisor_maker(),
            drain=self._drain_worker,
            share_cores=self._workers.share_cores,
            drain_timeout_s=self._settings.workers.drain_timeout_s,
            can_overlap=not self._settings.journal.enabled,  # one worker at a time can write it
        )
        return ModelManager(
            registry, tools, max_watchers=self._settings.server.max_watchers + _OWN_WATCHERS
        )

    async def _drain_worker(self, port: int, timeout_s: float, *, hands_over: bool) -> int:
        async with self._handovers.open(has_successor=hands_over) as is_open:
            return await self._workers.drain(port, timeout_s, hands_over=is_open)

    async def _prepare_handovers(self) -> None:
        """Begins without anything of hosts that are dead, and leaves nothing to a later one."""
        await asyncio.to_thread(remove_abandoned, handover_directories())
        self._resources.callback(self._handovers.clear)
        self._in_background(self._handovers.run())

    def _memory_need(self, file: ModelFile) -> MemoryNeed:
        """Blocks for as long as reading a header takes; refuses what is no servable GGUF."""
        shape = read_gguf(file.path).shape()
        return memory_need(self._settings.context, self._settings.kv, shape)

    def _supervisor_maker(
        self,
    ) -> Callable[[WorkerOrder, Callable[[], None], Callable[[Progress], None]], Supervisor]:
        workers = self._settings.workers
        launcher = WorkerLauncher(
            self._settings,
            WorkerPorts(workers.port_base, partial(port_is_free, workers.listen_host)),
            log_sink=_write_log_line,
            describe=describe,
            on_start=self._metrics.worker_started,
        )
        rules = RestartRules(
            initial_backoff_s=workers.initial_backoff_s,
            max_backoff_s=workers.max_backoff_s,
            stable_after_s=workers.stable_after_s,
            max_failed_starts=workers.max_failed_starts,
        )

        times = SupervisorTimes(
            start_silence_s=workers.start_silence_s, handover_s=self._settings.handover.time_s
        )
        watch = None
        if workers.hang_timeout_s:
            watch = HangWatch(self._workers.channel, workers.hang_timeout_s)

        def make(
            order: WorkerOrder,
            on_change: Callable[[], None],
            on_progress: Callable[[Progress], None],
        ) -> Supervisor:
            return Supervisor(
                order.label,
                partial(launcher.launch, order),
                policy=RestartPolicy(rules),
                times=times,
                on_change=on_change,
                on_progress=on_progress,
                watch=watch,
            )

        return make

    async def _start_server(self, manager: ModelManager, stats: StatsWatch) -> None:
        workers = self._settings.workers
        models = ModelServicer(manager, drain_timeout_s=workers.drain_timeout_s)
        endpoints = EndpointServicer(
            manager.picture,
            host_id=self._host_id,
            address_of=lambda port: f"{workers.advertised_host}:{port}",
        )
        self._server.add(models, _MODELS, peers=("gateway",))
        self._server.add(endpoints, _ENDPOINTS, peers=("gateway",))
        host = HostServicer(stats.latest, manager, drain_timeout_s=workers.drain_timeout_s)
        self._server.add(host, _HOST, peers=("gateway",))
        self._resources.push_async_callback(self._server.stop, 0)
        await self._server.start()
        self.rpc_port = self._server.port
        self._server.set_all_serving(True)
        self._readiness.met("serving")

    async def _start_ops(self, manager: ModelManager, stats: StatsWatch) -> None:
        self._instruments.registry.register(ReplicaCollector(stats.latest))
        self._metrics.read_at_scrape(
            picture=lambda: manager.picture.value,
            watchers=lambda: manager.picture.num_watchers,
            free_bytes=lambda: self._budget.free_bytes,
        )
        host, port = split_address(self._settings.server.ops_address)
        ops = OpsServer(
            port, host=host, registry=self._instruments.registry, readiness=self._readiness
        )
        self.ops_port = await ops.start_in(self._resources)

    def _start_tracing(self) -> None:
        address = self._settings.telemetry.address
        if address is not None:
            self._tracing.start_towards(address, self._tls, self._resources)

    def _tell_telemetry(self, stats: StatsWatch) -> None:
        settings = self._settings
        address = settings.telemetry.address
        if address is None:
            return
        push = TelemetryPush(address, self._tls, host_id=self._host_id, latest=stats.latest)
        self._in_background(push.run())
        channel = open_channel(address, tls=self._tls, server_name="telemetry")
        self._resources.push_async_callback(channel.close)
        accounts = LeftAccounts(
            channel,
            AccountFolder(account_directory(settings.home)),
            wait_s=settings.retention.account_s,
            clock=time.monotonic,
        )
        self._in_background(accounts.run())

    async def _begin_loads(self, manager: ModelManager) -> dict[str, ServedModel | None]:
        """Begins with what is to be loaded at the start, the model given by its path first.

        Before anybody can ask: a gateway whose calls wait for this host must not hear that their
        model is unloaded.
        """
        models = self._settings.models
        first = [models.path.stem] if models.path is not None else []
        names = dict.fromkeys([*first, *models.load])
        return {name: await _begin_load(manager, name, models.replicas) for name in names}

    async def _await_loads(
        self, manager: ModelManager, loads: Mapping[str, ServedModel | None]
    ) -> None:
        outcomes = await asyncio.gather(
            *(_becomes_ready(name, served) for name, served in loads.items() if served)
        )
        if loads and not any(outcomes):
            # The host stays: what is wrong shows in ListModels, and can be mended there.
            self._readiness.unmet("models", "none of the models could be loaded")
            self._in_background(self._await_first_model(manager))
        else:
            self._readiness.met("models")

    async def _await_first_model(self, manager: ModelManager) -> None:
        async for picture in manager.picture.watch():
            if picture.endpoints:
                self._readiness.met("models")
                return

    async def _rescan_forever(self, manager: ModelManager) -> None:
        while True:
            await asyncio.sleep(self._settings.models.rescan_interval_s)
            await manager.refresh()

    def _in_background(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(_log_death)
        self._resources.push_async_callback(_end, task)


async def _begin_load(manager: ModelManager, name: str, replica_count: int) -> ServedModel | None:
    try:
        return await manager.begin_load(name, replica_count)
    except CaravanError as error:
        _log_load_error(name, error)
        return None


async def _becomes_ready(name: str, served: ServedModel) -> bool:
    async for _ in served.progress.watch():
        pass
    if served.failure is not None:
        _log_load_error(name, served.failure)
    return served.failure is None


def _log_load_error(name: str, error: CaravanError) -> None:
    _log.error(
        "cannot load a model at the start",
        extra={"model": name, "reason": error.reason.value, "detail": error.message},
    )


def _bundled_model() -> list[Path]:
    try:
        return [bundled_model_path()]
    except FileNotFoundError:  # an image may leave it out
        _log.warning("the bundled model is not installed")
        return []


def _budget_bytes(workers: WorkersSettings) -> int:
    return workers.memory_budget_bytes or int(available_memory_bytes() * _MEMORY_SHARE)


def _reachable(listen_host: str) -> str:
    """The address by which this host reaches a worker that listens on `listen_host`."""
    return "127.0.0.1" if listen_host in _ANY_HOST else listen_host


def _write_log_line(line: str) -> None:
    """Passes a worker's log line on, whole, into the host's own log."""
    sys.stderr.write(line + "\n")


def _log_death(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        _log.critical("a part of the engine host ended", exc_info=task.exception())


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
