"""Composition root of a worker; owns the order of its start and its end.

Start: model, warm-up, chat template, decode thread, gRPC, ready. The end goes the other way round.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan_engine.backends.llama_cpp import KvType, LlamaCppBackend, LlamaCppSettings
from caravan_engine.control.events import LoadPhase, Progress, Ready
from caravan_engine.control.settings import WorkerSettings
from caravan_engine.domain.kv_numbers import KvUnit
from caravan_engine.domain.model_facts import DeviceMemory, ModelFacts, Pooling
from caravan_engine.domain.paging.kv_setup import make_kv_manager
from caravan_engine.domain.pooling import pooling_of
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.machine import num_usable_cores
from caravan_engine.prompts.errors import ChatTemplateFailedError
from caravan_engine.prompts.maker import PromptMaker
from caravan_engine.prompts.masking import Message
from caravan_engine.prompts.renderer import ChatRenderer, RendererLimits, TemplateSource
from caravan_engine.rpc.checkpoint_report import CheckpointReport
from caravan_engine.rpc.convert_pages import PageLimits
from caravan_engine.rpc.convert_stats import WorkerFacts, to_stats
from caravan_engine.rpc.worker_servicer import (
    ServedModel,
    WorkerOrders,
    WorkerReports,
    WorkerServicer,
    forget_nothing,
)
from caravan_engine.runtime.engine_loop import EngineLoop
from caravan_engine.runtime.handover_arrival import HandoverArrival
from caravan_engine.runtime.output_stream import LoopNotifier
from caravan_engine.runtime.page_mover import PagedMemory
from caravan_engine.runtime.retained_streams import RetainedStreams
from caravan_engine.storage.checksums import checksum
from caravan_engine.storage.disk_pages import DiskPages
from caravan_engine.worker.details import model_details
from caravan_engine.worker.draining import Draining
from caravan_engine.worker.handover import Handover, open_handover
from caravan_engine.worker.host_pipe import HostPipe
from caravan_engine.worker.memory import resident_bytes
from caravan_engine.worker.metrics_log import open_metrics_log
from caravan_engine.worker.page_disk import open_page_disk, page_arrival, take_over
from caravan_engine.worker.paging import kv_options, warm_up
from caravan_engine.worker.streams import open_streams
from caravan_engine.worker.threads import in_thread
from caravan_obskit.tracing import Tracing, inner_sampler, no_sampler
from caravan_rpckit.server import DEFAULT_REQUEST_LIMIT_BYTES, RpcServer
from caravan_rpckit.tls import TlsIdentity

_log = logging.getLogger(__name__)

_WORKER_SERVICE = worker_pb.DESCRIPTOR.services_by_name["WorkerService"]
# A client's request at its limit, and what the gateway adds: the caller, and in a continuation up
# to three bytes for each token that was emitted.
_REQUEST_LIMIT_BYTES = 2 * DEFAULT_REQUEST_LIMIT_BYTES
_END_GRACE_S = 2.0
_BYTE_PAIR = "gpt2"  # GGUF's name for every byte-pair tokenizer


class WorkerApp:
    """A worker as its process sees it.

    Args:
        settings: what the host ordered.
        host: where to report to.
        on_fatal: called on the decode thread when it can't go on; must end the process.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        host: HostPipe,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        self._settings = settings
        self._host = host
        self._on_fatal = on_fatal
        self._start_time_ms = time.time_ns() // 1_000_000
        self._tls = TlsIdentity.in_home(settings.home, "engine")
        self._tracing = Tracing(
            "engine-worker",
            sampler=no_sampler() if settings.telemetry_address is None else inner_sampler(),
        )
        self._engine: EngineLoop | None = None
        self._disk: DiskPages | None = None
        self._retained: RetainedStreams | None = None
        self._handover: Handover | None = None
        self._arrival: HandoverArrival | None = None
        self._draining: Draining | None = None
        self._resources = contextlib.AsyncExitStack()

    async def start(self) -> None:
        """Loads the model and takes requests.

        Raises:
            CaravanError: the model or the address can't be used. The host is told.
        """
        try:
            await self._start()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._host.say_failed(error)
            raise

    async def drain(self) -> None:
        """Takes no new requests and lets the running ones finish, for a time."""
        if self._draining is not None:
            await self._draining.drain(self._settings.drain_timeout_s, hands_over=True)

    async def stop(self) -> None:
        """Ends what is left and frees everything."""
        await self._resources.aclose()

    async def _start(self) -> None:
        self._report(LoadPhase.LOADING, 0.0)
        backend = await in_thread(self._load)
        self._resources.callback(backend.close)
        self._report(LoadPhase.WARMING_UP, 0.0)
        bytes_per_token = await in_thread(partial(warm_up, backend))
        facts = backend.facts
        renderer = await self._start_renderer(facts, backend)
        limits = self._limits(facts, backend)
        engine = await self._start_engine(backend, limits, bytes_per_token)
        prompts = PromptMaker(
            backend.vocabulary,
            model=self._settings.model,
            bos=facts.bos,
            splits_words=facts.metadata.get("tokenizer.ggml.model") == _BYTE_PAIR,
            renderer=renderer,
        )
        self._resources.callback(prompts.close)
        worker = self._facts(facts, limits, num_gpu_layers=backend.num_gpu_layers)
        stats = partial(self._stats, engine, worker, backend.devices)
        self._start_metrics_log(engine, stats)
        model = self._served_model(pooling_of(facts))
        server = await self._start_server(engine, prompts, stats, model)
        details = model_details(
            facts,
            limits,
            vocabulary_size=backend.vocabulary.size,
            has_chat_template=renderer is not None,
            kv_unit=KvUnit.PAGES if backend.can_cut else KvUnit.SEQUENCES,
        )
        self._host.say(Ready(port=server.port, details=details))

    def _load(self) -> LlamaCppBackend:
        context = self._settings.context
        threads = context.threads or num_usable_cores()
        settings = LlamaCppSettings(
            model_path=self._settings.model_path,
            num_cells=context.cells,
            num_seats=context.seats,
            num_shelf_ids=self._settings.kv.resident_sequences,
            can_cut=self._settings.kv.paged,
            batch_tokens=context.token_budget,
            ubatch_tokens=context.micro_batch or context.token_budget,
            num_threads=threads,
            num_threads_batch=threads,
            side_context=context.side_context,
            key_type=KvType[context.key_type.name],
            value_type=KvType[context.value_type.name],
            gpu_layers=-1 if context.gpu_layers is None else context.gpu_layers,
        )
        return LlamaCppBackend(settings, partial(self._report, LoadPhase.LOADING))

    def _limits(self, facts: ModelFacts, backend: LlamaCppBackend) -> SchedulerLimits:
        context, queue = self._settings.context, self._settings.queue
        trained = facts.trained_context_tokens or facts.num_cells
        return SchedulerLimits(
            num_seats=context.seats,
            num_cells=facts.num_cells,
            context_tokens=min(context.max_tokens or trained, facts.num_cells),
            token_budget=context.token_budget,
            queue_capacity=queue.size,
            queue_timeout_s=queue.timeout_s,
            ageing_s_per_level=queue.ageing_s_per_level,
            client_weights=queue.weights,
            refuses_late=queue.refuse_late,
            step_time_s=context.step_time_ms / 1000,
            attention_tile=backend.attention_tile,
            side=backend.side_limits,
            reader_stall_s=queue.reader_stall_s,
            can_share=backend.can_cut,
            prefetch_lookahead=self._settings.kv.prefetch_lookahead,
        )

    async def _start_renderer(
        self, facts: ModelFacts, backend: LlamaCppBackend
    ) -> ChatRenderer | None:
        """Starts the template's process; None when there is no template, or it fails a trial."""
        if not facts.chat_template:
            return None
        chat = self._settings.chat
        renderer = ChatRenderer(
            TemplateSource(facts.chat_template, _template_variables(facts, backend)),
            RendererLimits(
                memory_bytes=chat.memory_limit_bytes,
                time_s=chat.time_limit_s,
                output_chars=chat.output_limit_chars,
                queue_size=chat.queue_size,
            ),
        )
        renderer.start()
        self._resources.push_async_callback(renderer.stop)
        try:
            await renderer.render([Message("user", "Hello")])
        except ChatTemplateFailedError as error:
            extra = {"model": self._settings.model, "cause": error.message}
            _log.warning("chat template is unusable, chats will be refused", extra=extra)
            return None
        return renderer

    async def _start_engine(
        self, backend: LlamaCppBackend, limits: SchedulerLimits, bytes_per_token: int
    ) -> EngineLoop:
        memory = await self._open_memory(backend, bytes_per_token)
        engine = EngineLoop(
            backend,
            limits,
            memory,
            notify=LoopNotifier(asyncio.get_running_loop()),
            on_fatal=self._on_fatal,
        )
        engine.start()
        self._engine = engine
        self._resources.push_async_callback(in_thread, engine.stop)
        return engine

    async def _open_memory(self, backend: LlamaCppBackend, bytes_per_token: int) -> PagedMemory:
        options = kv_options(self._settings, backend, bytes_per_token)
        self._tell_unit(backend)
        self._handover = await in_thread(partial(self._open_handover, backend, bytes_per_token))
        self._disk = disk = await in_thread(
            partial(open_page_disk, self._settings, backend.layout, self._wake_engine)
        )
        if disk is None:
            return PagedMemory(make_kv_manager(options), checksum)
        self._resources.push_async_callback(in_thread, disk.close)
        taking_over = asyncio.create_task(take_over(disk), name="take-over")
        self._resources.callback(taking_over.cancel)
        kv = make_kv_manager(options, disk)
        if kv.store:
            kv.store.found_on_disk(disk.found())
        return PagedMemory(kv, checksum)

    def _open_handover(self, backend: LlamaCppBackend, bytes_per_token: int) -> Handover | None:
        cell_bytes = bytes_per_token * backend.facts.num_cells
        handover = open_handover(
            self._settings, backend.layout, can_cut=backend.can_cut, cell_bytes=cell_bytes
        )
        if handover is not None:
            self._resources.callback(handover.close)
        return handover

    def _tell_unit(self, backend: LlamaCppBackend) -> None:
        """Says by what memory is kept, and why not by pages."""
        extra = {"model": self._settings.model}
        if backend.can_cut:
            _log.info("memory is kept by pages", extra=extra)
        elif self._settings.kv.paged:
            cause = "the model's memory can't be divided"
            _log.warning("memory is kept by whole sequences", extra={**extra, "cause": cause})
        else:
            cause = "paging is off"
            _log.info("memory is kept by whole sequences", extra={**extra, "cause": cause})

    def _wake_engine(self) -> None:
        """The disk has news for the decode thread; called by any thread."""
        if self._engine is not None:
            self._engine.look_again()

    def _stats(
        self,
        engine: EngineLoop,
        facts: WorkerFacts,
        devices: Callable[[], Iterable[DeviceMemory]],
    ) -> stats_pb.WorkerStats:
        return to_stats(
            engine.stats(),
            facts,
            resident_bytes=resident_bytes(),
            disk=self._disk.stats() if self._disk else None,
            streams=self._retained.numbers() if self._retained else None,
            arrivals=self._arrival.numbers() if self._arrival else None,
            devices=devices(),
        )

    def _start_metrics_log(
        self, engine: EngineLoop, stats: Callable[[], stats_pb.WorkerStats]
    ) -> None:
        settings = self._settings.metrics
        log = open_metrics_log(settings, self._settings.metrics_file, stats)
        if log is not None:
            engine.on_eviction = log.evicted
            log.start()
            self._resources.push_async_callback(in_thread, log.close)

    async def _start_server(
        self,
        engine: EngineLoop,
        prompts: PromptMaker,
        stats: Callable[[], stats_pb.WorkerStats],
        model: ServedModel,
    ) -> RpcServer:
        settings = self._settings
        server = RpcServer(
            settings.address,
            tls=self._tls,
            request_limit_bytes=_REQUEST_LIMIT_BYTES,
            tracing=self._tracing.calls,
        )
        self._start_tracing()
        self._arrival = page_arrival(settings, engine, self._disk, self._handover)
        streams, journal, self._retained = await open_streams(
            settings, engine, self._arrival.prepare, self._tls, self._resources
        )
        self._draining = Draining(engine, server, self._handover, settings.handover.time_s)
        servicer = WorkerServicer(
            engine,
            prompts,
            streams,
            model=model,
            clock=time.monotonic,
            reports=WorkerReports(
                stats,
                CheckpointReport(
                    engine,
                    streams,
                    journal,
                    self._disk.stats if self._disk else None,
                    replica_index=settings.replica_index,
                ),
            ),
            orders=WorkerOrders(
                self._draining.drain, self._handover.forget if self._handover else forget_nothing
            ),
        )
        server.add(
            servicer,
            _WORKER_SERVICE,
            peers=("gateway", "engine"),
        )
        await server.start()
        self._resources.push_async_callback(server.stop, _END_GRACE_S)
        self._resources.callback(servicer.end_watches)
        server.set_all_serving(True)
        return server

    def _start_tracing(self) -> None:
        address = self._settings.telemetry_address
        if address is not None:
            self._tracing.start_towards(address, self._tls, self._resources)

    def _served_model(self, pooling: Pooling | None) -> ServedModel:
        settings = self._settings
        limits = PageLimits(settings.host_page_bytes, has_disk=settings.kv.disk_budget_bytes > 0)
        return ServedModel(settings.model, settings.model_digest, pooling, limits)

    def _facts(
        self, facts: ModelFacts, limits: SchedulerLimits, *, num_gpu_layers: int
    ) -> WorkerFacts:
        return WorkerFacts(
            worker_id=self._settings.worker_id,
            model=self._settings.model,
            replica_index=self._settings.replica_index,
            start_time_ms=self._start_time_ms,
            context_tokens=limits.context_tokens,
            cpu_layer_count=facts.num_layers - num_gpu_layers,
            gpu_layer_count=num_gpu_layers,
        )

    def _report(self, phase: LoadPhase, fraction: float) -> None:
        self._host.say(Progress(phase=phase, fraction=min(max(fraction, 0.0), 1.0)))


def _template_variables(facts: ModelFacts, backend: LlamaCppBackend) -> dict[str, str]:
    named = {"bos_token": facts.bos, "eos_token": facts.eos}
    texts = backend.vocabulary.control_texts
    return {name: texts.get(token, "") for name, token in named.items() if token is not None}
