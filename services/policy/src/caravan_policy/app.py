"""The composition root: builds the service from its parts, starts and stops them in order."""

import logging
from contextlib import AsyncExitStack
from datetime import timedelta

from sqlalchemy import Engine

from caravan.policy.v1 import authentication_service_pb2 as authentication_pb
from caravan.policy.v1 import authorization_service_pb2 as authorization_pb
from caravan.policy.v1 import policy_admin_service_pb2 as admin_pb
from caravan_obskit.instruments import Instruments
from caravan_obskit.logging import configure_logging
from caravan_obskit.ops_server import OpsServer
from caravan_obskit.readiness import Readiness
from caravan_obskit.tracing import Tracing, inner_sampler, lost_spans_counter, no_sampler
from caravan_policy.backends.casbin_enforcer import CasbinRules
from caravan_policy.config import PolicySettings
from caravan_policy.domain.administrator import Administrator
from caravan_policy.domain.authenticator import Authenticator
from caravan_policy.domain.authorizer import Authorizer
from caravan_policy.domain.directory import Directory
from caravan_policy.first_administrator import database_url, set_up, utc_now
from caravan_policy.metrics import PolicyMetrics
from caravan_policy.rpc.authentication_servicer import AuthenticationServicer
from caravan_policy.rpc.authorization_servicer import AuthorizationServicer
from caravan_policy.rpc.policy_admin_servicer import PolicyAdminServicer
from caravan_policy.runtime.blocking_calls import BlockingCalls
from caravan_policy.runtime.change_applier import ChangeApplier
from caravan_policy.runtime.policy_feed import PolicyFeed
from caravan_policy.storage.database import open_database
from caravan_policy.storage.sql_reader import SqlReader
from caravan_policy.storage.sql_writer import SqlWriter
from caravan_rpckit.server import RpcServer
from caravan_rpckit.tls import TlsIdentity
from caravan_servicekit.addresses import split_address
from caravan_servicekit.data_directory import DataDirectory

ONLY_CALLER = ("gateway",)

_SERVING = "serving"
_log = logging.getLogger("caravan.policy")


class PolicyApp:
    """The whole service in one process; everything belongs to the event loop that starts it."""

    def __init__(self, settings: PolicySettings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()
        self._instruments = Instruments()
        self._metrics = PolicyMetrics(self._instruments)
        self._readiness = Readiness((_SERVING,))
        self._tls = TlsIdentity.in_home(settings.home, "policy")
        self._tracing = Tracing(
            "policy",
            sampler=no_sampler() if settings.telemetry.address is None else inner_sampler(),
            on_lost=lost_spans_counter(self._instruments),
        )
        self._feed: PolicyFeed | None = None
        self._changes: ChangeApplier | None = None
        self._server: RpcServer | None = None
        self.ops_port = 0

    @classmethod
    def create(cls, settings: PolicySettings) -> "PolicyApp":
        """Makes the one application of this process."""
        configure_logging("policy", level=settings.log.level)
        return cls(settings)

    @property
    def port(self) -> int:
        """The port of the gRPC listener, once started."""
        return 0 if self._server is None else self._server.port

    async def start(self) -> None:
        """Opens the store, sets it up where it is new, and serves.

        Raises:
            CaravanError: the data directory, the database, a port or a certificate is unusable.
        """
        settings = self._settings
        directory = self._stack.enter_context(DataDirectory.open(settings.home, "policy"))
        await self._start_ops()
        blocking = BlockingCalls(settings.database.connection_limit)
        self._stack.callback(blocking.close)
        self._start_tracing()
        engine = await self._open_database(blocking, directory)
        await blocking.run(set_up, settings, engine)
        await self._serve(blocking, engine)
        self._readiness.met(_SERVING)

    async def drain(self) -> None:
        """Sends watchers away and lets running calls finish."""
        self._readiness.unmet(_SERVING, "draining")
        if self._feed is not None:
            self._feed.close()
        if self._server is not None:
            await self._server.stop(self._settings.server.drain_timeout_s)
        if self._changes is not None:
            await self._changes.drain()

    async def stop(self) -> None:
        """Ends what is left, last started first."""
        await self._stack.aclose()

    async def _start_ops(self) -> None:
        host, port = split_address(self._settings.server.ops_address)
        ops = OpsServer(
            port, host=host, registry=self._instruments.registry, readiness=self._readiness
        )
        self.ops_port = await ops.start_in(self._stack)

    def _start_tracing(self) -> None:
        address = self._settings.telemetry.address
        if address is not None:
            self._tracing.start_towards(address, self._tls, self._stack)

    async def _open_database(self, blocking: BlockingCalls, directory: DataDirectory) -> Engine:
        engine = await blocking.run(
            open_database,
            database_url(self._settings, directory.path),
            pool_size=self._settings.database.connection_limit,
        )
        self._stack.callback(engine.dispose)
        return engine

    async def _serve(self, blocking: BlockingCalls, engine: Engine) -> None:
        settings, metrics, reader = self._settings, self._metrics, SqlReader(engine)
        rules = CasbinRules(await blocking.run(reader.read_policy_set))
        authorizer = Authorizer(rules, metrics.decided)
        feed = PolicyFeed(
            rules.version,
            max_watchers=settings.watch.watcher_limit,
            buffered_events=settings.watch.buffer_limit,
        )
        metrics.read_at_scrape(
            rules=lambda: authorizer.num_rules,
            policy_version=lambda: authorizer.policy_version,
            watchers=lambda: feed.num_watchers,
        )
        self._feed, self._changes = feed, ChangeApplier(blocking, authorizer, feed)
        authenticator = Authenticator(reader, utc_now, metrics.authenticated)
        await self._listen(
            AuthenticationServicer(authenticator, blocking),
            AuthorizationServicer(authorizer, feed),
            PolicyAdminServicer(
                Directory(reader), self._administrator(engine), blocking, self._changes, utc_now
            ),
        )

    def _administrator(self, engine: Engine) -> Administrator:
        retention_h = self._settings.administration.idempotency_retention_h
        return Administrator(
            SqlWriter(engine),
            CasbinRules,
            utc_now,
            remember_results_for=timedelta(hours=retention_h),
        )

    async def _listen(
        self,
        authentication: AuthenticationServicer,
        authorization: AuthorizationServicer,
        administration: PolicyAdminServicer,
    ) -> None:
        self._server = server = RpcServer(
            self._settings.server.address,
            tls=self._tls,
            observers=(self._metrics,),
            tracing=self._tracing.calls,
        )
        for servicer, module, name in (
            (authentication, authentication_pb, "AuthenticationService"),
            (authorization, authorization_pb, "AuthorizationService"),
            (administration, admin_pb, "PolicyAdminService"),
        ):
            server.add(servicer, module.DESCRIPTOR.services_by_name[name], peers=ONLY_CALLER)
        self._stack.push_async_callback(self._stop_serving, server)
        await server.start()
        server.set_all_serving(True)
        _log.info("serving", extra={"port": server.port, "ops_port": self.ops_port})

    async def _stop_serving(self, server: RpcServer) -> None:
        """Ends at once what a drain did not; a change that was begun is still made known."""
        await server.stop(0)
        if self._changes is not None:
            await self._changes.drain()
