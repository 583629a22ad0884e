"""`caravan.engine.v1.WorkerService`: runs requests on this worker's model."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan.inference.v1 import embedding_pb2 as embedding_pb
from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan.inference.v1 import tokenization_pb2 as tokenization_pb
from caravan_engine.domain.errors import EmbeddingUnsupportedError, EmptyInputError
from caravan_engine.domain.model_facts import Pooling
from caravan_engine.domain.request import EmbeddingRequest, GenerationRequest
from caravan_engine.prompts.maker import PromptMaker
from caravan_engine.rpc.checkpoint_report import CheckpointReport
from caravan_engine.rpc.convert import (
    Identity,
    check_input_count,
    detokenizable_of,
    embeddings_of,
    generation_of,
    messages_of,
    seed_of,
    to_embed_response,
    to_response,
)
from caravan_engine.rpc.convert_pages import PageLimits, dropped_tenant_of, page_budgets_of
from caravan_engine.rpc.convert_prefixes import marked_input_of
from caravan_engine.rpc.errors import WrongModelError
from caravan_engine.rpc.stream_keeping import GeneratingEngine
from caravan_engine.rpc.stream_recovery import StreamRecovery
from caravan_engine.runtime.embeddings import EmbeddingJob, embed_all
from caravan_engine.runtime.held_prefixes import HeldPrefixes
from caravan_engine.runtime.run_trace import RunTrace
from caravan_rpckit.call import Call
from caravan_rpckit.refusals import PeerNotAllowedError

_log = logging.getLogger(__name__)

_STATS_INTERVAL_S = 1.0


class Engine(GeneratingEngine, Protocol):
    """What the servicer needs of the decode loop; see `EngineLoop`."""

    def embed(self, request: EmbeddingRequest) -> EmbeddingJob:
        """Queues an input whose vector is wanted."""
        ...

    def drop_pages(self, tenant: str) -> Future[int]:
        """Zeroes and forgets a tenant's pages."""
        ...

    def share_cores(self, *, shares: bool) -> Future[None]:
        """Computes with half of its threads for a time."""
        ...

    def stored_lengths(self, texts: Sequence[tuple[bytes, tuple[int, ...]]]) -> Future[list[int]]:
        """Tells how much of texts is stored."""
        ...

    def resize_pages(self, *, host_bytes: int | None, disk_bytes: int | None) -> Future[None]:
        """Changes the budgets of pages."""
        ...


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model that requests must name."""

    name: str
    digest: str
    pooling: Pooling | None  # how it embeds; None: it can't
    page_limits: PageLimits


@dataclass(frozen=True, slots=True)
class WorkerReports:
    """What the worker says of itself."""

    stats: Callable[[], stats_pb.WorkerStats]
    checkpoints: CheckpointReport


class Drain(Protocol):
    """Drains the worker."""

    async def __call__(self, timeout_s: float, *, hands_over: bool) -> int:
        """Returns how many requests it ended when the time was over."""
        ...


@dataclass(frozen=True, slots=True)
class WorkerOrders:
    """What the worker is told beside requests."""

    drain: Drain
    forget: Callable[[str], Awaitable[None]]  # what lies around of a tenant outside the engine


async def forget_nothing(tenant: str) -> None:
    """In place of `WorkerOrders.forget` where nothing lies around."""
    del tenant


class WorkerServicer:
    """Runs, embeds, reports and drains."""

    def __init__(
        self,
        engine: Engine,
        prompts: PromptMaker,
        streams: StreamRecovery,
        *,
        model: ServedModel,
        clock: Callable[[], float],
        reports: WorkerReports,
        orders: WorkerOrders,
    ) -> None:
        self._engine = engine
        self._prompts = prompts
        self._model = model
        self._clock = clock
        self._reports = reports
        self._orders = orders
        self._streams = streams
        self._prefixes = HeldPrefixes(engine.stored_lengths)
        self._ending = asyncio.Event()

    def end_watches(self) -> None:
        """Ends the streams that would go on for ever; the server need not wait for them."""
        self._ending.set()

    async def Run(
        self, run: worker_pb.RunRequest, call: Call
    ) -> AsyncIterator[worker_pb.RunResponse]:
        """Streams the events of a request; ends it when the caller leaves, unless it is kept."""
        _require_peer(call, "gateway")
        # So that the line in our log has the name that everybody else knows the call by.
        call.request_id = run.caller.request_id or call.request_id
        call.trace.begin(run.caller.traceparent)
        if run.HasField("continuation"):
            self._require_digest(run.continuation.model_digest)
        request = await self._generation(run, call.request_id, self._deadline(call))
        identity = Identity(self._model.name, self._model.digest, call.request_id, request.seed)
        self._prefixes.note(marked_input_of(run, request, self._model.digest))
        trace = RunTrace(call.trace.tracer, call.trace.span)
        try:
            async with aclosing(self._streams.events(run, request, call)) as events:
                async for event in events:
                    trace.saw(event)
                    yield to_response(event, identity)
        finally:
            trace.end()

    async def FindStream(
        self, request: worker_pb.FindStreamRequest, call: Call
    ) -> worker_pb.FindStreamResponse:
        """Tells what is kept of a generation."""
        _require_peer(call, "gateway")
        return await self._streams.find(request, call, self._generation)

    async def ReleaseStreams(
        self, request: worker_pb.ReleaseStreamsRequest, call: Call
    ) -> worker_pb.ReleaseStreamsResponse:
        """Takes note of what a gateway accounts for."""
        _require_peer(call, "gateway")
        self._streams.release(request)
        return worker_pb.ReleaseStreamsResponse()

    async def StopStream(
        self, request: worker_pb.StopStreamRequest, call: Call
    ) -> worker_pb.StopStreamResponse:
        """Ends a kept generation."""
        _require_peer(call, "gateway")
        self._streams.stop(request)
        return worker_pb.StopStreamResponse()

    async def Embed(self, embed: worker_pb.EmbedRequest, call: Call) -> worker_pb.EmbedResponse:
        """Answers with the vectors of all inputs, which are computed as they come up."""
        _require_peer(call, "gateway")
        call.request_id = embed.caller.request_id or call.request_id
        call.trace.begin(embed.caller.traceparent)
        pooling = self._embedding_pooling(embed.request)
        requests = embeddings_of(
            embed,
            [await self._embedded_tokens(each) for each in embed.request.inputs],
            pooling=pooling,
            request_id=call.request_id,
            deadline=self._deadline(call),
        )
        identity = Identity(self._model.name, self._model.digest, call.request_id, 0)
        inputs = await embed_all(self._engine, requests)
        return to_embed_response(inputs, identity, pooling)

    async def Tokenize(
        self, request: worker_pb.TokenizeRequest, call: Call
    ) -> worker_pb.TokenizeResponse:
        """Splits a text or a chat as a generation would."""
        _require_peer(call, "gateway")
        ids = await self._prompt(request.request)
        return worker_pb.TokenizeResponse(response=tokenization_pb.TokenizeResponse(ids=ids))

    async def Detokenize(
        self, request: worker_pb.DetokenizeRequest, call: Call
    ) -> worker_pb.DetokenizeResponse:
        """Writes tokens out."""
        _require_peer(call, "gateway")
        self._require_model(request.request.model)
        text = await self._prompts.text_of(detokenizable_of(request.request))
        return worker_pb.DetokenizeResponse(response=tokenization_pb.DetokenizeResponse(text=text))

    async def WatchStats(
        self, _request: worker_pb.WatchStatsRequest, call: Call
    ) -> AsyncIterator[worker_pb.WatchStatsResponse]:
        """Sends the numbers at once and then every second."""
        _require_peer(call, "engine", "gateway")
        while not self._ending.is_set():
            yield worker_pb.WatchStatsResponse(stats=self._reports.stats())
            await self._pause()

    async def WatchPrefixes(
        self, _request: worker_pb.WatchPrefixesRequest, call: Call
    ) -> AsyncIterator[worker_pb.WatchPrefixesResponse]:
        """Sends the marks of what is stored at once, and when they have changed."""
        _require_peer(call, "gateway")
        told: tuple[int, ...] | None = None
        while not self._ending.is_set():
            held = await self._prefixes.look()
            if held != told:
                told = held
                yield worker_pb.WatchPrefixesResponse(hashes=held)
            await self._pause()

    async def _pause(self) -> None:
        """Waits a second, or until the streams that would go on for ever are to end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STATS_INTERVAL_S):
                await self._ending.wait()

    async def DropPages(
        self, request: worker_pb.DropPagesRequest, call: Call
    ) -> worker_pb.DropPagesResponse:
        """Forgets what is stored of a tenant's texts, and says so in the log."""
        _require_peer(call, "engine", "gateway")
        self._require_model(request.model)
        tenant = dropped_tenant_of(request)
        self._streams.give_up(tenant)
        num_dropped = await asyncio.wrap_future(self._engine.drop_pages(tenant))
        await self._orders.forget(tenant)
        extra = {"model": self._model.name, "tenant": tenant, "page_count": num_dropped}
        _log.info("a tenant's pages dropped", extra=extra)
        return worker_pb.DropPagesResponse(dropped_page_count=num_dropped)

    async def SetPageBudgets(
        self, request: worker_pb.SetPageBudgetsRequest, call: Call
    ) -> worker_pb.SetPageBudgetsResponse:
        """Changes how much is stored."""
        _require_peer(call, "engine", "gateway")
        self._require_model(request.model)
        budgets = page_budgets_of(request, self._model.page_limits)
        await asyncio.wrap_future(self._engine.resize_pages(**budgets))
        _log.info("budgets of pages changed", extra={"model": self._model.name, **budgets})
        return worker_pb.SetPageBudgetsResponse()

    async def GetCheckpoints(
        self, request: worker_pb.GetCheckpointsRequest, call: Call
    ) -> worker_pb.GetCheckpointsResponse:
        """Tells what the next worker would find."""
        _require_peer(call, "gateway")
        self._require_model(request.model)
        checkpoints = self._reports.checkpoints.tell(self._model.name)
        return worker_pb.GetCheckpointsResponse(checkpoints=checkpoints)

    async def PruneCheckpoints(
        self, request: worker_pb.PruneCheckpointsRequest, call: Call
    ) -> worker_pb.PruneCheckpointsResponse:
        """Gives up what nobody needs of that."""
        _require_peer(call, "gateway")
        self._require_model(request.model)
        return await self._reports.checkpoints.prune(self._model.name)

    async def ShareCores(
        self, request: worker_pb.ShareCoresRequest, call: Call
    ) -> worker_pb.ShareCoresResponse:
        """Leaves cores to the worker that it replaces, or that replaces it."""
        _require_peer(call, "engine")
        await asyncio.wrap_future(self._engine.share_cores(shares=request.shares))
        return worker_pb.ShareCoresResponse()

    async def Drain(self, request: worker_pb.DrainRequest, call: Call) -> worker_pb.DrainResponse:
        """Takes nothing new, waits for what runs, ends the rest."""
        _require_peer(call, "engine")
        ended = await self._orders.drain(request.timeout_ms / 1000, hands_over=request.hands_over)
        return worker_pb.DrainResponse(ended_request_count=ended)

    async def _generation(
        self, run: worker_pb.RunRequest, request_id: str, deadline: float | None
    ) -> GenerationRequest:
        return generation_of(
            run,
            prompt=await self._prompt(run.request),
            seed=seed_of(run.request),
            request_id=request_id,
            deadline=deadline,
        )

    async def _prompt(
        self, request: generation_pb.GenerateRequest | tokenization_pb.TokenizeRequest
    ) -> tuple[int, ...]:
        self._require_model(request.model)
        match request.WhichOneof("input"):
            case "text":
                return await self._prompts.of_text(request.text)
            case "chat":
                return await self._prompts.of_chat(messages_of(request.chat))
            case "token_ids" if isinstance(request, generation_pb.GenerateRequest):
                return await self._prompts.of_tokens(request.token_ids.ids)
            case _:
                raise EmptyInputError

    async def _embedded_tokens(self, given: embedding_pb.EmbedInput) -> tuple[int, ...]:
        if given.WhichOneof("input") == "token_ids":
            return await self._prompts.of_tokens(given.token_ids.ids)
        return await self._prompts.of_text(given.text)

    def _embedding_pooling(self, request: embedding_pb.EmbedRequest) -> Pooling:
        self._require_model(request.model)
        check_input_count(request)
        if self._model.pooling is None:
            raise EmbeddingUnsupportedError(self._model.name)
        return self._model.pooling

    def _deadline(self, call: Call) -> float | None:
        remaining_s = call.time_remaining()
        return None if remaining_s is None else self._clock() + remaining_s

    def _require_model(self, model: str) -> None:
        if model != self._model.name:
            raise WrongModelError(model)

    def _require_digest(self, digest: str) -> None:
        """What one model began, another of the same name can't go on with."""
        if digest != self._model.digest:
            raise WrongModelError(self._model.name)


def _require_peer(call: Call, *peers: str) -> None:
    """The service has two callers, and each method its own of them."""
    if call.peer not in peers:
        raise PeerNotAllowedError(
            "this method is not for the service that calls it", metadata={"peer": call.peer or ""}
        )
