"""Goes on with generations that a worker before this one was killed at, when their clients ask.

A client that comes back says how many tokens it has, so the generation goes on from exactly there.
The obvious way, to go on with everything at the start, would compute for gateways that are alive
and go on themselves, and for clients that are gone.
"""

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan_engine.domain.errors import InvalidFieldError
from caravan_engine.domain.events import Event
from caravan_engine.domain.recovery.live_requests import LiveChoice, LiveRequest
from caravan_engine.domain.recovery.records import Handle, RequestEnded
from caravan_engine.domain.request import Continuation, Emitted, GenerationRequest
from caravan_engine.rpc.convert import to_continuation
from caravan_engine.rpc.stream_keeping import StreamKeeping, choice_count_of, name_of
from caravan_engine.runtime.request_journal import RequestJournal
from caravan_engine.runtime.retained_streams import StreamName
from caravan_rpckit.call import Call
from caravan_rpckit.errors import FieldViolation

_log = logging.getLogger(__name__)

ToRequest = Callable[[worker_pb.RunRequest, str, float | None], Awaitable[GenerationRequest]]
"""Makes a request of a run, its name and its deadline."""


class StreamRecovery:
    """What calls ask of streams, those included that nobody has asked for since their worker died.

    Owned by the event loop.

    Args:
        keeping: Has those of this worker, and goes on with the others.
        journal: In which they stay until they are asked for or given up; None if there is none.
        recovered: What it said of them at the start.
        digest: Of the model that began them.
    """

    def __init__(
        self,
        keeping: StreamKeeping,
        journal: RequestJournal | None = None,
        recovered: Iterable[LiveRequest] = (),
        *,
        digest: str,
    ) -> None:
        self._keeping = keeping
        self._journal = journal
        self._digest = digest
        self._waiting: dict[StreamName, _Recovered] = {}
        for request in recovered:
            self._add(request)

    @property
    def handles(self) -> frozenset[Handle]:
        """Which requests in the journal wait to be asked for."""
        return frozenset(each.request.began.handle for each in self._waiting.values())

    def events(
        self, run: worker_pb.RunRequest, request: GenerationRequest, call: Call
    ) -> AsyncGenerator[Event, None]:
        """See `StreamKeeping`; a request that is sent again is not asked for any more."""
        self._give_up_usages((run.retention.usage_id,))
        return self._keeping.events(run, request, call)

    async def find(
        self, asked: worker_pb.FindStreamRequest, call: Call, to_request: ToRequest
    ) -> worker_pb.FindStreamResponse:
        """See `StreamKeeping`; goes on with a generation of an earlier worker first.

        Raises:
            CaravanError: it isn't known, or can't go on now.
        """
        name = name_of(asked.caller)
        if (found := self._waiting.get(name)) is not None:
            await self._go_on(found, asked, call, to_request)
            self._forget(name)
        return self._keeping.find(asked)

    def release(self, request: worker_pb.ReleaseStreamsRequest) -> None:
        """See `StreamKeeping`."""
        self._give_up_usages(request.dropped_usage_ids)
        for found in self._waiting.values():
            found.is_accounted |= found.run.retention.usage_id in request.recorded_usage_ids
        self._keeping.release(request)

    def stop(self, request: worker_pb.StopStreamRequest) -> None:
        """See `StreamKeeping`."""
        name = name_of(request.caller)
        if name in self._waiting:
            self._forget(name)
        else:
            self._keeping.stop(request)

    def give_up(self, tenant: str | None = None) -> int:
        """Gives up what nobody has asked for, of all tenants if None; returns how many it was."""
        names = [name for name in self._waiting if tenant in (None, name.tenant)]
        for name in names:
            self._forget(name)
        if names:
            _log.info("requests of an earlier worker given up", extra={"request_count": len(names)})
        return len(names)

    async def _go_on(
        self,
        found: "_Recovered",
        asked: worker_pb.FindStreamRequest,
        call: Call,
        to_request: ToRequest,
    ) -> None:
        """Returns when it goes on from what the client has."""
        run = worker_pb.RunRequest()
        run.CopyFrom(found.run)
        has_begun = found.request.cached_tokens is not None or any(
            each.output_tokens for each in asked.choices
        )
        request = await to_request(run, run.caller.request_id, None)
        if has_begun:
            emitted = await self._caught_up(request, found.request, _received(run, asked.choices))
            told = Continuation(emitted, found.request.cached_tokens or 0)
            run.continuation.CopyFrom(to_continuation(told, self._digest))
            request = replace(request, continuation=told)
        stream = await self._keeping.keep(run, request)
        stream.is_accounted = found.is_accounted
        if has_begun:
            stream.leave_alone()
            return
        async with aclosing(stream.read((), call.end)) as events:
            await anext(events, None)

    async def _caught_up(
        self,
        request: GenerationRequest,
        recorded: LiveRequest,
        received: Sequence[worker_pb.ReceivedChoice],
    ) -> tuple[Emitted, ...]:
        """Returns what the client has of each choice, to the token.

        What was sent in the last moment before the death isn't in the journal, and is generated
        again, each choice for itself up to what the client has of it.
        """
        needs_mu = request.sampling.mirostat is not None
        caught_up = []
        for index, has in enumerate(received):
            choice = recorded.choices.get(index) or LiveChoice()
            emitted = _beginning(choice, has.output_tokens, needs_mu=needs_mu)
            if has.output_tokens > request.max_output_tokens:
                raise InvalidFieldError(
                    FieldViolation(f"choices[{index}].output_tokens", "more than were asked for")
                )
            if len(emitted.tokens) < has.output_tokens:
                others = [Emitted(is_finished=True)] * request.choice_count
                others[index] = emitted
                rest = replace(
                    request,
                    max_output_tokens=has.output_tokens,
                    continuation=Continuation(tuple(others)),
                )
                emitted = await self._keeping.catch_up(rest, index)
            caught_up.append(replace(emitted, is_finished=has.finished))
        return tuple(caught_up)

    def _give_up_usages(self, usage_ids: Collection[str]) -> None:
        for name, found in tuple(self._waiting.items()):
            if found.run.retention.usage_id in usage_ids:
                self._forget(name)

    def _add(self, request: LiveRequest) -> None:
        try:
            run = worker_pb.RunRequest.FromString(request.began.request)
        except DecodeError:
            _log.error("a request in the journal can't be read")
            self._end(request)
            return
        name = name_of(run.caller)
        if name in self._waiting:
            self._forget(name)  # of several with one name the latest is found
        self._waiting[name] = _Recovered(run, request)

    def _forget(self, name: StreamName) -> None:
        if (found := self._waiting.pop(name, None)) is not None:
            self._end(found.request)

    def _end(self, request: LiveRequest) -> None:
        if self._journal is not None:
            self._journal.report(RequestEnded(request.began.handle))


@dataclass(slots=True)
class _Recovered:
    run: worker_pb.RunRequest
    request: LiveRequest
    is_accounted: bool = False  # somebody else writes its usage record


def _received(
    run: worker_pb.RunRequest, given: Sequence[worker_pb.ReceivedChoice]
) -> list[worker_pb.ReceivedChoice]:
    """Returns what the client has of each choice.

    Raises:
        InvalidFieldError: there are not so many.
    """
    num_missing = choice_count_of(run) - len(given)
    if num_missing < 0:
        raise InvalidFieldError(FieldViolation("choices", "more than the stream has"))
    return [*given, *[worker_pb.ReceivedChoice()] * num_missing]


def _beginning(choice: LiveChoice, num_tokens: int, *, needs_mu: bool) -> Emitted:
    """Returns the first tokens of a choice, as far as they are recorded and can be gone on from."""
    num_known = min(num_tokens, len(choice.tokens))
    if needs_mu:  # without it the rest would be drawn otherwise
        num_known = max((at for at in choice.mus if at <= num_known), default=0)
    return Emitted(tuple(choice.tokens[:num_known]), mirostat_mu=choice.mus.get(num_known))
