"""Assembles a gRPC server: handlers, health, reflection, TLS, limits, drain."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2

from caravan_rpckit.handlers import HandlerRules, MethodHandler, unserved_handler
from caravan_rpckit.health import HealthServicer
from caravan_rpckit.observers import CallObserver, LogObserver
from caravan_rpckit.reflection import (
    REFLECTION_NAMES,
    ReflectionServicer,
    reflection_descriptor,
)
from caravan_rpckit.refusals import AddressInUseError
from caravan_rpckit.tls import PublicTls, TlsIdentity
from caravan_rpckit.tracing import CallTracing

DEFAULT_REQUEST_LIMIT_BYTES = 4 * 1024 * 1024
# How fast clients may ask whether a silent connection still stands: services, and strangers.
_SERVICE_PING_MS, _PUBLIC_PING_MS = 500, 10_000


class RpcServer:
    """A gRPC server whose errors are all rich and whose port is its own.

    Add servicers, then start. Belongs to the event loop that starts it. Health and reflection are
    served beside what is added, to anybody who can connect.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: TlsIdentity | PublicTls | None = None,
        observers: Sequence[CallObserver] = (),
        request_limit_bytes: int = DEFAULT_REQUEST_LIMIT_BYTES,
        announce_request_id: bool = False,
        tracing: CallTracing | None = None,
    ) -> None:
        """Prepares a server.

        Args:
            address: host:port to listen on; port 0 takes a free one.
            tls: who this service is; None listens in plaintext.
            observers: told about each call, beside the log.
            request_limit_bytes: larger requests are refused with their size.
            announce_request_id: send `x-request-id` in the initial metadata of each call.
            tracing: makes the spans of calls; None makes none. Health and reflection have none.
        """
        self._address = address
        self._tls = tls
        self._observers = (LogObserver(), *observers)
        self._request_limit_bytes = request_limit_bytes
        self._announce = announce_request_id
        self._tracing = tracing
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
        self._service_names: list[str] = []
        self._health = HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._starting: asyncio.Task[None] | None = None
        self.port = 0

    def add(
        self,
        servicer: object,
        descriptor: ServiceDescriptor,
        *,
        peers: Collection[str] | None = None,
    ) -> None:
        """Serves `descriptor` by `servicer`, whose methods are named as in the contract.

        Args:
            servicer: takes (request, call) and returns, or yields, responses or their bytes.
            descriptor: the service, from the generated module's `DESCRIPTOR.services_by_name`.
            peers: services whose certificate may call; None lets anybody.

        Raises:
            TypeError: the servicer lacks a method of the contract.
        """
        self._register(servicer, descriptor, peers, tracing=self._tracing)
        self._service_names.append(descriptor.full_name)
        self._health.set_serving(descriptor.full_name, False)

    async def start(self) -> None:
        """Binds the port and starts serving; services stay NOT_SERVING until told otherwise.

        Raises:
            AddressInUseError: the port is taken.
            InvalidTlsFilesError: certificate files cannot be read.
        """
        self._register_own_services()
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                # Twice the documented limit, so that what is over it still gets our own answer.
                ("grpc.max_receive_message_length", 2 * self._request_limit_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.http2.min_ping_interval_without_data_ms", self._min_ping_interval_ms),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.http2.ping_timeout_ms", 20_000),
            ]
        )
        self._server.add_generic_rpc_handlers((_Router(self._handlers),))
        self.port = self._bind(self._server)
        # Not interrupted by who ends us meanwhile: gRPC can't stop a server that is half started.
        self._starting = asyncio.create_task(self._server.start())
        await asyncio.shield(self._starting)

    def set_serving(self, service: str, serving: bool) -> None:
        """Sets what `grpc.health.v1` says of `service` (its full name)."""
        self._health.set_serving(service, serving)

    def set_all_serving(self, serving: bool) -> None:
        """Sets what `grpc.health.v1` says of every service that was added."""
        for name in self._service_names:
            self._health.set_serving(name, serving)

    async def stop(self, grace_s: float) -> None:
        """Takes no new calls, lets running ones finish for `grace_s` seconds, then ends them."""
        if self._server is not None:
            self.set_all_serving(False)
            if self._starting is not None:
                await asyncio.wait({self._starting})
            await self._server.stop(grace_s)
            self._server = None

    @property
    def _min_ping_interval_ms(self) -> int:
        return _SERVICE_PING_MS if isinstance(self._tls, TlsIdentity) else _PUBLIC_PING_MS

    def _bind(self, server: grpc.aio.Server) -> int:
        with contextlib.suppress(RuntimeError):  # gRPC's way to say that it cannot bind
            if self._tls is None:
                return server.add_insecure_port(self._address)
            return server.add_secure_port(self._address, self._tls.server_credentials())
        raise AddressInUseError(
            f"cannot listen on {self._address}: another process does, or the address is not of "
            "this machine. Is another instance running?",
            metadata={"address": self._address},
        )

    def _register(
        self,
        servicer: object,
        descriptor: ServiceDescriptor,
        peers: Collection[str] | None,
        *,
        served_as: str | None = None,
        tracing: CallTracing | None = None,
    ) -> None:
        rules = HandlerRules(
            self._request_limit_bytes, peers, self._observers, self._announce, tracing
        )
        for method in descriptor.methods:
            behaviour = getattr(servicer, method.name, None)
            if behaviour is None:
                raise TypeError(f"{type(servicer).__name__} lacks {method.full_name}")
            path = f"{served_as or descriptor.full_name}/{method.name}"
            handler = MethodHandler(path, method, behaviour, rules)
            self._handlers[f"/{handler.method}"] = handler.rpc_method_handler()

    def _register_own_services(self) -> None:
        health = health_pb2.DESCRIPTOR.services_by_name["Health"]
        self._register(self._health, health, None)
        reflection = ReflectionServicer([*self._service_names, health.full_name])
        self._health.set_serving(health.full_name, True)
        for name in REFLECTION_NAMES:
            self._register(reflection, reflection_descriptor(), None, served_as=name)
            self._health.set_serving(name, True)


class _Router(grpc.GenericRpcHandler):
    """Finds the handler of a method; what is not served is refused with a rich status."""

    def __init__(self, handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]]) -> None:
        self._handlers = handlers

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Called by gRPC for each call."""
        method = handler_call_details.method
        return self._handlers.get(method) or unserved_handler(method)
