"""The part of the worker's service that deals with streams which outlive their readers."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan_engine.domain.errors import StreamNotKeptError
from caravan_engine.domain.events import Delta, Event
from caravan_engine.domain.kept_output import KeptOutput, Received
from caravan_engine.domain.request import Continuation, Emitted, GenerationRequest
from caravan_engine.rpc.convert import to_continuation, to_finished
from caravan_engine.rpc.request_journaling import RunFollower
from caravan_engine.runtime.output_stream import OutputStream
from caravan_engine.runtime.retained_streams import (
    EventSource,
    RetainedStream,
    RetainedStreams,
    StreamName,
    StreamOrigin,
)
from caravan_rpckit.call import Call


class GeneratingEngine(Protocol):
    """What is needed of the decode loop; see `EngineLoop`."""

    def submit(self, request: GenerationRequest) -> OutputStream:
        """Queues a request and returns its events."""
        ...

    def retell(self, request: GenerationRequest) -> Sequence[Delta]:
        """The deltas of what another worker emitted."""
        ...


class StreamKeeping:
    """Reads generations for calls, and answers what may be asked about kept ones.

    `prepare` gets what a request needs before it is queued.
    """

    def __init__(
        self,
        engine: GeneratingEngine,
        streams: RetainedStreams,
        journal: RunFollower,
        prepare: Callable[[GenerationRequest], Awaitable[None]],
        *,
        model: str,
        digest: str,
    ) -> None:
        self._engine = engine
        self._journal = journal
        self._prepare = prepare
        self._streams = streams
        self._model = model
        self._digest = digest

    async def events(
        self, run: worker_pb.RunRequest, request: GenerationRequest, call: Call
    ) -> AsyncGenerator[Event, None]:
        """Yields the events of a request; closing it ends the request, unless it is kept."""
        if not run.HasField("retention"):
            await self._prepare(request)
            source = self._engine.submit(request)
            try:
                async for event in source:
                    yield event
            finally:
                source.close()
            return
        emitted = request.continuation.choices if request.continuation else ()
        stream = self._kept(run, emitted) or await self.keep(run, request)
        async with aclosing(stream.read(emitted, call.end)) as events:
            async for event in events:
                yield event

    async def keep(self, run: worker_pb.RunRequest, request: GenerationRequest) -> RetainedStream:
        """Begins a generation that is kept, or only counted."""
        await self._prepare(request)
        is_kept = run.retention.resumable
        earlier = request.continuation.choices if request.continuation else ()
        retold = self._engine.retell(request) if earlier and is_kept else ()
        output = KeptOutput(earlier, retold, keeps_events=is_kept)
        origin = StreamOrigin(
            name_of(run.caller),
            run.retention.usage_id,
            run if is_kept else _without_request(run),
            order_bytes=run.ByteSize() if is_kept else 0,
            is_resumable=is_kept,
        )
        source: EventSource = self._engine.submit(request)
        if is_kept:
            source = self._journal.follow(run, request, source)
        return self._streams.keep(origin, source, output)

    async def catch_up(self, request: GenerationRequest, choice_index: int) -> Emitted:
        """Generates a choice to its end, for nobody to read; returns all of its tokens."""
        source = self._engine.submit(request)
        emitted = request.emitted(choice_index)
        try:
            async for event in source:
                if isinstance(event, Delta) and event.choice_index == choice_index:
                    tokens = (*emitted.tokens, *event.token_ids)
                    emitted = Emitted(tokens, mirostat_mu=event.mirostat_mu)
        finally:
            source.close()
        return emitted

    def find(self, request: worker_pb.FindStreamRequest) -> worker_pb.FindStreamResponse:
        """What a Run needs to go on with a kept generation.

        Raises:
            StreamNotKeptError: there is none, or not what follows what the client has.
            InvalidFieldError: the client can't have that.
        """
        stream = self._streams.named(name_of(request.caller))
        if stream is None or not isinstance(stream.origin.order, worker_pb.RunRequest):
            raise StreamNotKeptError(self._model)
        run, output = stream.origin.order, stream.output
        received = [Received(each.output_tokens, each.finished) for each in request.choices]
        history = output.history(received, choice_count_of(run))
        if history is None or not output.has_begun:
            raise StreamNotKeptError(self._model)
        answer = worker_pb.FindStreamResponse(run=run)
        told = run.continuation if output.started is None else output.started
        answer.run.continuation.CopyFrom(
            to_continuation(Continuation(history, told.cached_tokens), self._digest)
        )
        known = {index for index, each in enumerate(history) if each.is_finished}
        ends = (end for end in output.finished if end.choice_index in known)
        answer.finished.extend(map(to_finished, ends))
        if stream.first_token_s is not None:
            answer.time_to_first_token_ms = stream.first_token_s * 1000
        return answer

    def release(self, request: worker_pb.ReleaseStreamsRequest) -> None:
        """Others account for generations."""
        self._streams.release(request.recorded_usage_ids, request.dropped_usage_ids)

    def stop(self, request: worker_pb.StopStreamRequest) -> None:
        """Ends a generation.

        Raises:
            StreamNotKeptError: there is none.
        """
        stream = self._streams.named(name_of(request.caller))
        if stream is None:
            raise StreamNotKeptError(self._model)
        self._streams.abandon(stream)

    def _kept(self, run: worker_pb.RunRequest, emitted: Sequence[Emitted]) -> RetainedStream | None:
        """The generation that a Run goes on with, if it is here."""
        stream = self._streams.of_usage(run.retention.usage_id)
        is_same = (
            stream is not None
            and run.retention.resumable
            and bool(emitted)
            and stream.output.follows(emitted)
        )
        return stream if is_same else None


def name_of(caller: worker_pb.Caller) -> StreamName:
    """Whose generation it is, and what they call it."""
    return StreamName(caller.tenant, caller.principal, caller.request_id)


def choice_count_of(run: worker_pb.RunRequest) -> int:
    """How many choices a request has."""
    return run.request.choice_count if run.request.HasField("choice_count") else 1


def _without_request(run: worker_pb.RunRequest) -> worker_pb.RunRequest:
    """What accounting needs of a run, which is small."""
    return worker_pb.RunRequest(caller=run.caller, retention=run.retention)
