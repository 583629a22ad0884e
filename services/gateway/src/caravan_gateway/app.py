"""Composition root of the gateway: what is built from what, and the order of start and stop."""

import contextlib
import logging
import time
from functools import partial
from importlib import metadata

import grpc.aio

from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.gateway.v1 import stream_service_pb2 as stream_pb
from caravan.inference.v1 import inference_service_pb2 as inference_pb
from caravan.model.v1 import model_service_pb2 as model_pb
from caravan.policy.v1 import policy_admin_service_pb2 as policy_pb
from caravan.telemetry.v1 import trace_query_service_pb2 as trace_query_pb
from caravan_gateway.clients.convert import usage_to
from caravan_gateway.clients.engine_hosts import EngineHosts
from caravan_gateway.clients.failures import loss_of
from caravan_gateway.clients.forwarding import ServiceForwarder
from caravan_gateway.clients.kept_streams import KeptStreams
from caravan_gateway.clients.policy_client import PolicyClient
from caravan_gateway.clients.policy_watch import PolicyWatch
from caravan_gateway.clients.stored_pages import StoredPages
from caravan_gateway.clients.telemetry_client import TelemetryClient
from caravan_gateway.clients.worker_channels import WorkerChannels
from caravan_gateway.clients.worker_checkpoints import WorkerCheckpoints
from caravan_gateway.clients.worker_drain import WorkerDrain
from caravan_gateway.config import GatewaySettings
from caravan_gateway.domain.authenticator import AuthenticationLimits, Authenticator
from caravan_gateway.domain.authorizer import Authorizer
from caravan_gateway.domain.failover import FailoverRules
from caravan_gateway.domain.listener import require_safe_listener
from caravan_gateway.domain.models import ModelCatalog
from caravan_gateway.domain.poison import PoisonRules, PoisonWatch
from caravan_gateway.domain.policy_view import PolicyView
from caravan_gateway.metrics import (
    CallMetrics,
    FailoverMetrics,
    GenerationMetrics,
    LookupMetrics,
    UsageMetrics,
    declare_gauges,
)
from caravan_gateway.pipelines import PipelineParts, Pipelines
from caravan_gateway.placing import Placing
from caravan_gateway.rpc.convert_specs import spec_from
from caravan_gateway.rpc.gateway_admin_servicer import GatewayAdminServicer
from caravan_gateway.rpc.inference_servicer import InferenceServicer
from caravan_gateway.rpc.model_servicer import ModelServicer
from caravan_gateway.rpc.policy_admin_servicer import PolicyAdminServicer
from caravan_gateway.rpc.public_server import make_public_server
from caravan_gateway.rpc.stream_servicer import StreamServicer
from caravan_gateway.rpc.trace_query_servicer import TraceQueryServicer
from caravan_gateway.runtime.access import AccessGate
from caravan_gateway.runtime.background import run_in_background
from caravan_gateway.runtime.call_spans import CallSpans
from caravan_gateway.runtime.failover import FailingOver, FailoverTools
from caravan_gateway.runtime.gateway_status import Dependency, GatewayStatus
from caravan_gateway.runtime.live_calls import LiveCalls
from caravan_gateway.runtime.policy_sync import PolicySync
from caravan_gateway.runtime.stream_ledger import StreamLedger
from caravan_gateway.runtime.usage_delivery import UsageDelivery
from caravan_gateway.storage.usage_spool import SqliteSpool
from caravan_obskit.instruments import Instruments
from caravan_obskit.logging import configure_logging
from caravan_obskit.ops_server import OpsServer
from caravan_obskit.otlp import OtlpSender
from caravan_obskit.readiness import Readiness
from caravan_obskit.tracing import Tracing, edge_sampler, lost_spans_counter, no_sampler
from caravan_rpckit.channel import Keepalive, open_channel
from caravan_rpckit.tls import TlsIdentity
from caravan_servicekit.addresses import split_address
from caravan_servicekit.data_directory import DataDirectory

SERVICE = "gateway"
VERSION = metadata.version("caravan-gateway")
# For answers that are on their way when the listener closes.
_LAST_ANSWERS_S = 0.5

_PUBLIC_SERVICES = (
    inference_pb.DESCRIPTOR.services_by_name["InferenceService"],
    model_pb.DESCRIPTOR.services_by_name["ModelService"],
    policy_pb.DESCRIPTOR.services_by_name["PolicyAdminService"],
    gateway_pb.DESCRIPTOR.services_by_name["GatewayAdminService"],
    trace_query_pb.DESCRIPTOR.services_by_name["TraceQueryService"],
    stream_pb.DESCRIPTOR.services_by_name["StreamService"],
)
_log = logging.getLogger("caravan.gateway")


class GatewayApp:
    """The service as its process sees it.

    Start: data directory, spool, channels and watches, public listener, ops port. Ready once
    policy and an engine host are heard. Stop: the other way round.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._start_time_s = time.time()
        self._tls = TlsIdentity.in_home(settings.home, SERVICE)
        self._instruments = Instruments()
        self._readiness = Readiness(("policy", "engine", "serving"))
        self._view = PolicyView()
        self._catalog = ModelCatalog(settings.engine.addresses)
        failover = settings.failover
        self._keepalive = Keepalive(failover.keepalive_s, failover.keepalive_timeout_s)
        self._tracing = self._make_tracing()
        self._workers = WorkerChannels(
            self._tls,
            self._tracing.calls,
            max_response_bytes=settings.server.max_response_bytes,
            gateway_id=settings.name,
            keepalive=self._keepalive,
        )
        self._placing = Placing(settings, self._catalog, self._workers)
        self._streams = KeptStreams(self._catalog, self._workers, spec_from)
        self._call_metrics = CallMetrics(self._instruments)
        self._live_calls = LiveCalls(
            max_calls=settings.server.max_calls,
            reader_stall_s=settings.server.reader_stall_s,
            clock=time.monotonic,
            num_open=lambda: self._call_metrics.num_active,
        )
        self._server = make_public_server(
            self._settings.server, self._call_metrics, self._tracing.calls
        )
        self._resources = contextlib.AsyncExitStack()
        self.port = 0
        self.ops_port = 0

    @classmethod
    def create(cls, settings: GatewaySettings) -> "GatewayApp":
        """Makes the one application of this process."""
        configure_logging(SERVICE, level=settings.log.level)
        return cls(settings)

    async def start(self) -> None:
        """Listens; readiness comes with the first news of policy and of an engine host.

        Raises:
            CaravanError: the listener would be insecure; the data directory, the certificates or
                a port cannot be used.
        """
        server = self._settings.server
        require_safe_listener(
            server.address,
            encrypted=server.tls_certificate_path is not None,
            allow_plaintext=server.allow_plaintext,
        )
        await self._start_usage()
        await self._start_access()
        self._start_engine_hosts()
        self._add_servicers()
        run_in_background(self._resources, self._live_calls.watch_stalls(), "stalled readers")
        self._resources.push_async_callback(self._server.stop, _LAST_ANSWERS_S)
        await self._server.start()
        self.port = self._server.port
        await self._start_ops()
        _log.info("listening", extra={"port": self.port, "ops_port": self.ops_port})
        self._readiness.met("serving")
        self._announce_readiness()

    async def drain(self) -> None:
        """Refuses new calls and lets running ones finish."""
        self._readiness.unmet("serving", "draining")
        self._announce_readiness()
        await self._live_calls.drain(self._settings.server.drain_timeout_s)

    async def stop(self) -> None:
        """Ends what is left and frees everything."""
        await self._resources.aclose()

    @property
    def is_ready(self) -> bool:
        """Whether calls are taken and can be served."""
        return self._readiness.is_ready

    async def _start_usage(self) -> None:
        settings = self._settings.telemetry
        directory = self._resources.enter_context(DataDirectory.open(self._settings.home, SERVICE))
        self._spool = SqliteSpool(directory.path / "usage.db", max_bytes=settings.spool_max_bytes)
        self._resources.push_async_callback(self._spool.close)
        await self._spool.open()
        channel = self._open_channel(settings.address, "telemetry")
        self._resources.push_async_callback(self._tracing.close)
        self._tracing.start(OtlpSender(channel, timeout_s=settings.timeout_s))
        self._traces = ServiceForwarder(channel, "telemetry", self._tracing.calls)
        self._telemetry = TelemetryClient(channel, timeout_s=settings.timeout_s)
        self._usage = UsageDelivery(
            self._spool,
            self._telemetry,
            UsageMetrics(self._instruments),
            encode=partial(usage_to, gateway_id=self._settings.name),
            max_unwritten=settings.unwritten_records,
            max_wait_s=settings.record_wait_s,
            clock=time.monotonic,
        )
        self._resources.push_async_callback(self._usage.finish)
        run_in_background(self._resources, self._usage.run(), "usage delivery")

    async def _start_access(self) -> None:
        settings = self._settings.policy
        channel = self._open_channel(settings.address, "policy")
        tracing = self._tracing.calls
        policy = PolicyClient(channel, timeout_s=settings.timeout_s, tracing=tracing)
        lookups = LookupMetrics(self._instruments)
        self._authenticator = Authenticator(
            policy,
            self._view,
            AuthenticationLimits(
                max_entries=settings.cache_entries,
                ttl_s=settings.cache_ttl_s,
                max_refusals=settings.refusal_entries,
                refusal_ttl_s=settings.refusal_ttl_s,
            ),
            clock=time.monotonic,
            wall_clock=time.time,
            on_lookup=lookups.observer("authentication"),
        )
        self._authorizer = Authorizer(
            policy,
            self._view,
            max_entries=settings.cache_entries,
            ttl_s=settings.cache_ttl_s,
            clock=time.monotonic,
            on_lookup=lookups.observer("authorization"),
        )
        self._resources.push_async_callback(self._authenticator.answers.close)
        self._resources.push_async_callback(self._authorizer.answers.close)
        self._policy_admin = ServiceForwarder(channel, "policy", tracing)
        self._follow_policy(channel)

    def _follow_policy(self, channel: grpc.aio.Channel) -> None:
        sync = PolicySync(self._view, self._authenticator, self._authorizer, self._live_calls)
        self._resources.push_async_callback(sync.close)
        self._policy_watch = PolicyWatch(channel, sync, on_state=self._on_policy_state)
        run_in_background(self._resources, self._policy_watch.run(), "policy watch")

    def _start_engine_hosts(self) -> None:
        self._resources.push_async_callback(self._workers.close)
        self._resources.push_async_callback(self._placing.close)
        channels = [
            (address, self._open_channel(address, "engine"))
            for address in self._settings.engine.addresses
        ]
        self._hosts = EngineHosts(
            channels,
            self._catalog,
            self._workers,
            on_change=self._on_engine_state,
            tracing=self._tracing.calls,
        )
        run_in_background(self._resources, self._hosts.run(), "engine watch")

    def _make_pipelines(self) -> Pipelines:
        return Pipelines(
            PipelineParts(
                authenticator=self._authenticator,
                authorizer=self._authorizer,
                catalog=self._catalog,
                router=self._placing.router,
                route=self._placing.route(),
                streams=self._streams,
                runner=self._make_runner(),
                metrics=GenerationMetrics(self._instruments, clock=time.monotonic),
                usage=self._usage,
                ledger=self._start_ledger(),
                live_calls=self._live_calls,
                spans=CallSpans(self._tracing.tracer),
            )
        )

    def _start_ledger(self) -> StreamLedger:
        ledger = StreamLedger(
            self._streams.tell,
            num_taken=lambda: self._usage.num_taken,
            num_written=lambda: self._usage.num_written,
        )
        self._workers.tell_through(ledger)
        run_in_background(self._resources, ledger.run(), "stream ledger")
        return ledger

    def _make_runner(self) -> FailingOver:
        settings = self._settings.failover
        return FailingOver(
            self._workers,
            self._placing.router,
            PoisonWatch(PoisonRules(settings.poison_deaths, settings.poison_window_s)),
            FailoverTools(
                rules=FailoverRules(settings.timeout_s),
                loss_of=loss_of,
                observer=FailoverMetrics(self._instruments),
                spans=CallSpans(self._tracing.tracer),
                clock=time.monotonic,
            ),
        )

    def _make_tracing(self) -> Tracing:
        settings = self._settings.tracing
        return Tracing(
            SERVICE,
            sampler=edge_sampler(settings.sample_ratio) if settings.enabled else no_sampler(),
            starts_traces=True,
            on_lost=lost_spans_counter(self._instruments),
        )

    def _add_servicers(self) -> None:
        pipelines = self._make_pipelines()
        gate = AccessGate(self._live_calls, self._authenticator, self._authorizer, self._catalog)
        limit = self._settings.server.max_response_bytes
        servicers = (
            InferenceServicer(pipelines.beginning, max_response_bytes=limit),
            ModelServicer(gate, self._hosts),
            PolicyAdminServicer(gate, self._policy_admin),
            GatewayAdminServicer(
                gate,
                self._look,
                self._hosts,
                StoredPages(self._catalog, self._workers),
                WorkerDrain(self._catalog, self._hosts),
                WorkerCheckpoints(self._catalog, self._workers),
            ),
            TraceQueryServicer(gate, self._traces),
            StreamServicer(pipelines.resuming, gate, self._streams),
        )
        for servicer, descriptor in zip(servicers, _PUBLIC_SERVICES, strict=True):
            self._server.add(servicer, descriptor)

    async def _start_ops(self) -> None:
        declare_gauges(
            self._instruments,
            {
                "usage_spool_depth": lambda: self._usage.num_waiting,
                "credential_cache_entries": lambda: len(self._authenticator.answers),
                "decision_cache_entries": lambda: len(self._authorizer.answers),
                "workers_known": lambda: self._catalog.num_endpoints,
                "worker_channels": lambda: len(self._workers),
                "calls_without_worker": lambda: self._placing.arrivals.num_waiting,
                "worker_calls_active": lambda: self._placing.router.num_leases,
                "policy_connected": lambda: self._view.connected,
                "engine_hosts_connected": lambda: self._catalog.num_connected_hosts,
            },
        )
        host, port = split_address(self._settings.server.ops_address)
        ops = OpsServer(
            port, host=host, registry=self._instruments.registry, readiness=self._readiness
        )
        self.ops_port = await ops.start_in(self._resources)

    async def _look(self) -> GatewayStatus:
        settings = self._settings
        wrong = await self._telemetry.probe()
        policy = self._policy_watch.detail
        engines = [
            Dependency("engine", host.address, host.connected, host.detail)
            for host in self._hosts.states()
        ]
        return GatewayStatus(
            version=VERSION,
            start_time_s=self._start_time_s,
            serving=self.is_ready,
            dependencies=(
                Dependency("policy", settings.policy.address, self._view.connected, policy),
                *engines,
                Dependency("telemetry", settings.telemetry.address, not wrong, wrong),
            ),
            active_call_count=len(self._live_calls),
            spooled_record_count=self._usage.num_waiting,
        )

    def _on_policy_state(self, wrong: str) -> None:
        self._note("policy", wrong)

    def _on_engine_state(self) -> None:
        self._placing.heard()
        reachable = self._catalog.num_connected_hosts
        self._note("engine", "" if reachable else "no engine host can be reached")

    def _note(self, condition: str, wrong: str) -> None:
        if wrong:
            self._readiness.unmet(condition, wrong)
        else:
            self._readiness.met(condition)
        self._announce_readiness()

    def _announce_readiness(self) -> None:
        self._server.set_all_serving(self.is_ready)

    def _open_channel(self, address: str, service: str) -> grpc.aio.Channel:
        channel = open_channel(
            address, tls=self._tls, server_name=service, keepalive=self._keepalive
        )
        self._resources.push_async_callback(channel.close)
        return channel
