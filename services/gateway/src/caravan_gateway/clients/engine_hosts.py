"""Watches the engine hosts, and passes model calls on to them."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

import grpc.aio
from google.protobuf.message import Message

from caravan.engine.v1 import host_service_pb2 as host_pb
from caravan.engine.v1 import host_service_pb2_grpc as host_grpc
from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.model.v1 import endpoint_service_pb2 as endpoint_pb
from caravan.model.v1 import endpoint_service_pb2_grpc as endpoint_grpc
from caravan.model.v1 import model_pb2 as model_pb
from caravan.model.v1 import model_service_pb2 as service_pb
from caravan_gateway.clients.convert import picture_from
from caravan_gateway.clients.failures import forwarding_failure
from caravan_gateway.clients.forwarding import forward_stream, forward_unary
from caravan_gateway.clients.merged_models import merged
from caravan_gateway.clients.watching import watch_forever
from caravan_gateway.clients.worker_channels import WorkerChannels
from caravan_gateway.clients.worker_stats import StatsSource, stats_of_all
from caravan_gateway.domain.errors import DependencyUnavailableError
from caravan_gateway.domain.models import ModelCatalog
from caravan_gateway.runtime.forwarded_call import ForwardedCall
from caravan_rpckit.call import REQUEST_ID_KEY
from caravan_rpckit.name_pages import page_of
from caravan_rpckit.tracing import UNTRACED, CallTracing

ENGINE = "engine"


@dataclass(frozen=True, slots=True)
class HostState:
    """One host, seen from here; `detail` says what is wrong, or nothing."""

    address: str
    connected: bool
    detail: str


class _Host:
    """One host: what it said last."""

    def __init__(self, address: str, channel: grpc.aio.Channel, hosts: "EngineHosts") -> None:
        self.address = address
        self.channel = channel
        self.models: Sequence[model_pb.Model] = ()
        self.worker_ids: frozenset[str] = frozenset()
        self.detail = "not connected yet"
        self._hosts = hosts
        self._stub = endpoint_grpc.EndpointServiceStub(channel)

    async def watch(self) -> None:
        await watch_forever(
            lambda: self._stub.WatchEndpoints(endpoint_pb.WatchEndpointsRequest()),
            self,
            source=f"{ENGINE} {self.address}",
        )

    def heard(self, message: endpoint_pb.WatchEndpointsResponse, *, first: bool) -> None:
        self.models = tuple(message.models)
        self.worker_ids = frozenset(endpoint.worker_id for endpoint in message.endpoints)
        self.detail = ""
        self._hosts.updated(self.address, message)

    def lost(self, detail: str) -> None:
        self.detail = detail
        self._hosts.lost(self.address)


class EngineHosts:
    """All watched hosts. Owned by the event loop."""

    def __init__(
        self,
        channels: Sequence[tuple[str, grpc.aio.Channel]],
        catalog: ModelCatalog,
        workers: WorkerChannels,
        *,
        on_change: Callable[[], None],
        tracing: CallTracing = UNTRACED,
    ) -> None:
        """Prepares the watches.

        Args:
            channels: address and channel of each host; whoever opened them closes them.
            catalog: is kept up to date.
            workers: whose channels follow the endpoints.
            on_change: called after each piece of news.
            tracing: traces the calls that are passed on.
        """
        self._tracing = tracing
        self._catalog = catalog
        self._workers = workers
        self._on_change = on_change
        self._hosts = {address: _Host(address, channel, self) for address, channel in channels}

    async def run(self) -> None:
        """Watches until cancelled."""
        async with asyncio.TaskGroup() as group:
            for host in self._hosts.values():
                group.create_task(host.watch())

    def states(self) -> list[HostState]:
        """How each host is."""
        return [
            HostState(host.address, self._catalog.is_connected(host.address), host.detail)
            for host in self._hosts.values()
        ]

    def models(self) -> list[model_pb.Model]:
        """The models of all hosts that can be reached, by name."""
        hosts = (each for each in self._hosts.values() if self._catalog.is_connected(each.address))
        return merged(model for host in hosts for model in host.models)

    async def worker_stats(self) -> gateway_pb.GetWorkerStatsResponse:
        """The numbers of the workers of all hosts that can be reached."""
        # Before asking: a host may be lost meanwhile, and would be named twice.
        away = [each.address for each in self.states() if not each.connected]
        response = await stats_of_all(
            [
                StatsSource(host.address, host.channel, host.models)
                for host in self._hosts.values()
                if self._catalog.is_connected(host.address)
            ]
        )
        response.missing_hosts.extend(away)
        return response

    def replicas_of(self, model: str) -> list[tuple[str, int]]:
        """Host and number there of each replica of a model, in the order of the merged list."""
        return [
            (host.address, replica.index)
            for host in self._hosts.values()
            if self._catalog.is_connected(host.address)
            for each in host.models
            if each.name == model
            for replica in each.replicas
        ]

    async def drain(
        self, address: str, request: host_pb.DrainWorkersRequest, order: ForwardedCall
    ) -> host_pb.DrainWorkersResponse:
        """Has a host drain workers.

        Raises:
            DependencyUnavailableError: it can't be reached.
            AioRpcError: what it refused with.
        """
        stub = host_grpc.HostServiceStub(self._hosts[address].channel)
        metadata = ((REQUEST_ID_KEY, order.request_id),)
        try:
            return await stub.DrainWorkers(request, timeout=order.timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise forwarding_failure(error, ENGINE) from None

    async def unary(self, request: Message, forwarded: ForwardedCall) -> bytes:
        """Answers a call of ModelService with the answer's bytes.

        A host answers, but for what is asked of several hosts together.
        """
        channel = self._channel_for(forwarded)
        if len(self._hosts) > 1:
            match request:
                case service_pb.ListModelsRequest():
                    return self._list(request).SerializeToString()
                case service_pb.GetModelRequest():
                    return self._get(request.model).SerializeToString()
        return await forward_unary(channel, ENGINE, request, forwarded, self._tracing)

    def stream(self, request: Message, forwarded: ForwardedCall) -> AsyncGenerator[bytes, None]:
        """Passes a streamed call of ModelService on and yields the answers' bytes."""
        channel = self._channel_for(forwarded)
        return forward_stream(channel, ENGINE, request, forwarded, self._tracing)

    def updated(self, address: str, message: endpoint_pb.WatchEndpointsResponse) -> None:
        """A host said something new."""
        self._catalog.update(address, picture_from(message))
        self._workers.keep_only(
            frozenset().union(*(host.worker_ids for host in self._hosts.values()))
        )
        self._on_change()

    def lost(self, address: str) -> None:
        """A host cannot be reached. Its workers may well be alive, so their channels stay."""
        self._catalog.lose(address)
        self._on_change()

    def _list(self, request: service_pb.ListModelsRequest) -> service_pb.ListModelsResponse:
        page, token = page_of(self.models(), request.page_size, request.page_token)
        return service_pb.ListModelsResponse(models=page, next_page_token=token)

    def _get(self, name: str) -> service_pb.GetModelResponse:
        own_name = self._catalog.find(name)
        for model in self.models():
            if model.name == own_name:
                return service_pb.GetModelResponse(model=model)
        raise DependencyUnavailableError(ENGINE)  # its only host is away

    def _channel_for(self, forwarded: ForwardedCall) -> grpc.aio.Channel:
        return self._hosts[self._catalog.host_of(forwarded.model or "")].channel
