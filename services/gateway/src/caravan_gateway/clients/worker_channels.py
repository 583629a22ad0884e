"""Talks to the workers: one channel per worker process."""

import asyncio
from collections.abc import AsyncIterable, Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import grpc.aio

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.engine.v1 import worker_service_pb2_grpc as worker_grpc
from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan_gateway.clients.convert import completed_from, run_event_from, run_request_to
from caravan_gateway.clients.failures import worker_failure
from caravan_gateway.clients.worker_answers import answer_of
from caravan_gateway.domain.errors import WorkerDiedError
from caravan_gateway.domain.inference_call import Events, InferenceCall, RunEvent
from caravan_gateway.domain.inference_facts import CompletedFacts
from caravan_gateway.domain.models import Endpoint
from caravan_gateway.domain.ports import StreamLedger
from caravan_gateway.runtime.forwarded_call import ForwardedCall
from caravan_rpckit.call import REQUEST_ID_KEY
from caravan_rpckit.channel import Keepalive, open_channel
from caravan_rpckit.tls import TlsIdentity
from caravan_rpckit.tracing import UNTRACED, CallTracing

if TYPE_CHECKING:
    from caravan.engine.v1.worker_service_pb2_grpc import WorkerServiceAsyncStub

RequestT = TypeVar("RequestT")
ResponseT = TypeVar("ResponseT")

_RUN = "caravan.engine.v1.WorkerService/Run"
# Workers show the certificate of the engine that started them.
WORKER_SERVICE = "engine"


@dataclass(slots=True)
class _Worker:
    channel: grpc.aio.Channel
    stub: "WorkerServiceAsyncStub"
    num_calls: int = 0
    retired: bool = False


class WorkerChannels:
    """Runs calls on workers. Owned by the event loop.

    A channel is opened by the first call to its worker. It is closed when the worker is gone from
    the endpoints and its last call has ended: a worker that drains still serves what it has.
    """

    def __init__(
        self,
        tls: TlsIdentity | None,
        tracing: CallTracing = UNTRACED,
        *,
        max_response_bytes: int,
        gateway_id: str = "",
        keepalive: Keepalive | None = None,
    ) -> None:
        self._gateway_id = gateway_id
        self._ledger: StreamLedger | None = None
        self._keepalive = keepalive or Keepalive()
        self._max_response_bytes = max_response_bytes
        self._tls = tls
        self._tracing = tracing
        self._workers: dict[str, _Worker] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._workers)

    def keep_only(self, worker_ids: Collection[str]) -> None:
        """Closes the channels of all other workers, as soon as they are idle."""
        for worker_id, worker in tuple(self._workers.items()):
            worker.retired = worker_id not in worker_ids
            self._close_if_done(worker_id, worker)

    async def close(self) -> None:
        """Closes every channel, ending what runs."""
        workers, self._workers = self._workers, {}
        for worker in workers.values():
            await worker.channel.close()
        await asyncio.gather(*self._closing)

    async def run(self, endpoint: Endpoint, call: InferenceCall) -> Events:
        """Implements WorkerRunner."""
        with self._borrowed(endpoint) as worker:
            if not isinstance(call.request, generation_pb.GenerateRequest):
                yield await self._answer(worker, call)
                return
            with self._tracing.client_span(_RUN, name="stream") as traceparent:
                request = run_request_to(call, traceparent, self._gateway_id)
                run = worker.stub.Run(request, timeout=call.time_left())
                try:
                    async for event in _events(run, call.model):
                        yield event
                finally:
                    run.cancel()  # does nothing to a run that is over

    async def drop_pages(self, endpoint: Endpoint, tenant: str, order: ForwardedCall) -> int:
        """Has a worker forget a tenant's pages and returns how many it had.

        Raises:
            WorkerDiedError: the worker is gone.
            AioRpcError: what it refused with.
        """
        request = worker_pb.DropPagesRequest(model=endpoint.model, tenant=tenant)
        with self._borrowed(endpoint) as worker:
            answer = await self._order(worker.stub.DropPages, request, endpoint.model, order)
            return answer.dropped_page_count

    async def get_checkpoints(
        self, endpoint: Endpoint, request: worker_pb.GetCheckpointsRequest, order: ForwardedCall
    ) -> worker_pb.GetCheckpointsResponse:
        """Asks a worker what is on disk for the time after its death.

        Raises:
            WorkerDiedError: the worker is gone.
            AioRpcError: what it refused with.
        """
        with self._borrowed(endpoint) as worker:
            return await self._order(worker.stub.GetCheckpoints, request, endpoint.model, order)

    async def prune_checkpoints(
        self, endpoint: Endpoint, request: worker_pb.PruneCheckpointsRequest, order: ForwardedCall
    ) -> worker_pb.PruneCheckpointsResponse:
        """Has a worker give up what nobody needs of that.

        Raises:
            WorkerDiedError: the worker is gone.
            AioRpcError: what it refused with.
        """
        with self._borrowed(endpoint) as worker:
            return await self._order(worker.stub.PruneCheckpoints, request, endpoint.model, order)

    async def set_page_budgets(
        self, endpoint: Endpoint, request: worker_pb.SetPageBudgetsRequest, order: ForwardedCall
    ) -> None:
        """Changes how much a worker stores.

        Raises:
            WorkerDiedError: the worker is gone.
            AioRpcError: what it refused with.
        """
        with self._borrowed(endpoint) as worker:
            await self._order(worker.stub.SetPageBudgets, request, endpoint.model, order)

    def tell_through(self, ledger: StreamLedger) -> None:
        """From now on workers are told by `ledger` which streams are not theirs any more."""
        self._ledger = ledger

    def disown(self, endpoint: Endpoint, call: InferenceCall) -> None:
        """Implements WorkerRunner."""
        if self._ledger is not None and call.usage_id:
            self._ledger.disowned(endpoint, call.usage_id)

    async def find_stream(
        self, endpoint: Endpoint, request: worker_pb.FindStreamRequest, timeout_s: float | None
    ) -> worker_pb.FindStreamResponse:
        """Asks a worker for a stream.

        Raises:
            WorkerDiedError: the worker is gone.
            AioRpcError: what it refused with.
        """
        with self._borrowed(endpoint) as worker:
            try:
                return await worker.stub.FindStream(request, timeout=timeout_s)
            except grpc.aio.AioRpcError as error:
                raise worker_failure(error, endpoint.model) from None

    async def stop_stream(
        self, endpoint: Endpoint, caller: worker_pb.Caller, order: ForwardedCall
    ) -> None:
        """Has a worker end a stream.

        Raises:
            WorkerDiedError: the worker is gone.
            AioRpcError: what it refused with.
        """
        request = worker_pb.StopStreamRequest(caller=caller)
        with self._borrowed(endpoint) as worker:
            await self._order(worker.stub.StopStream, request, endpoint.model, order)

    async def release_streams(
        self, endpoint: Endpoint, request: worker_pb.ReleaseStreamsRequest, timeout_s: float
    ) -> bool:
        """Tells a worker which streams are accounted for.

        Returns whether it heard it, or is gone: then it has no channel, and gets no new one.
        """
        if endpoint.worker_id not in self._workers:
            return True
        with self._borrowed(endpoint) as worker:
            try:
                await worker.stub.ReleaseStreams(request, timeout=timeout_s)
            except grpc.aio.AioRpcError:
                return False
        return True

    @contextmanager
    def watched(
        self, endpoint: Endpoint
    ) -> Iterator[Callable[[], AsyncIterable[worker_pb.WatchPrefixesResponse]]]:
        """Keeps a worker's channel open for what begins to watch its prefixes when it is called."""
        with self._borrowed(endpoint) as worker:
            yield lambda: worker.stub.WatchPrefixes(worker_pb.WatchPrefixesRequest())

    async def _order(
        self,
        send: grpc.aio.UnaryUnaryMultiCallable[RequestT, ResponseT],
        request: RequestT,
        model: str,
        order: ForwardedCall,
    ) -> ResponseT:
        metadata = ((REQUEST_ID_KEY, order.request_id),)
        try:
            return await send(request, timeout=order.timeout_s, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise worker_failure(error, model) from None

    @contextmanager
    def _borrowed(self, endpoint: Endpoint) -> Iterator[_Worker]:
        worker = self._workers.get(endpoint.worker_id) or self._open(endpoint)
        worker.num_calls += 1
        try:
            yield worker
        finally:
            worker.num_calls -= 1
            self._close_if_done(endpoint.worker_id, worker)

    def completed(self, call: InferenceCall) -> RunEvent:
        """Implements WorkerRunner."""
        return completed_from(call)

    async def _answer(self, worker: _Worker, call: InferenceCall) -> RunEvent:
        return await answer_of(worker.stub, call, self._tracing, max_bytes=self._max_response_bytes)

    def _open(self, endpoint: Endpoint) -> _Worker:
        server_name = None if self._tls is None else WORKER_SERVICE
        channel = open_channel(
            endpoint.address, tls=self._tls, server_name=server_name, keepalive=self._keepalive
        )
        worker = _Worker(channel, worker_grpc.WorkerServiceStub(channel))
        self._workers[endpoint.worker_id] = worker
        return worker

    def _close_if_done(self, worker_id: str, worker: _Worker) -> None:
        if worker.retired and not worker.num_calls and worker_id in self._workers:
            del self._workers[worker_id]
            closing = asyncio.create_task(worker.channel.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)


async def _events(run: AsyncIterable[worker_pb.RunResponse], model: str) -> Events:
    """Yields up to `completed`; raises where a worker ends without it."""
    completed = False
    try:
        async for response in run:
            if completed:
                break
            event = run_event_from(response)
            if event is not None:
                completed = isinstance(event.facts, CompletedFacts)
                yield event
    except grpc.aio.AioRpcError as error:
        # After the terminal event a status can say nothing more to the client.
        if not completed:
            raise worker_failure(error, model) from None
    if not completed:
        raise WorkerDiedError(model)
