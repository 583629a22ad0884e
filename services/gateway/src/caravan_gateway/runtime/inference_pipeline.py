"""Takes an inference call through the list of stages."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack, aclosing

from caravan_gateway.domain.admission import Stage
from caravan_gateway.domain.errors import CallerDeadlineError, CallerLeftError
from caravan_gateway.domain.inference_call import Events, InferenceCall, RunEvent
from caravan_gateway.domain.inference_facts import CompletedFacts
from caravan_gateway.domain.usage import Outcome
from caravan_gateway.runtime.call_spans import CallSpans
from caravan_gateway.runtime.live_calls import LiveCall, LiveCalls
from caravan_rpckit.errors import Reason
from caravan_rpckit.tracing import UNTRACED

_FAILED = Outcome(13, Reason.INTERNAL)


class InferencePipeline:
    """Runs calls; each by the task that iterates over `run`."""

    def __init__(
        self,
        stages: Sequence[Stage],
        live_calls: LiveCalls,
        *,
        outcome_of: Callable[[BaseException], Outcome],
        clock: Callable[[], float],
        spans: CallSpans | None = None,
    ) -> None:
        """Prepares the pipeline.

        Args:
            stages: in the order in which a call passes them.
            live_calls: where running calls are counted and ended.
            outcome_of: the code and reason that a client sees for an exception.
            clock: monotonic, in seconds.
            spans: traces calls; None doesn't.
        """
        self.stages = tuple(stages)
        self._live_calls = live_calls
        self._outcome_of = outcome_of
        self._clock = clock
        self._spans = CallSpans(UNTRACED.tracer) if spans is None else spans

    async def run(
        self, call: InferenceCall, check: Callable[[RunEvent], None] | None = None
    ) -> Events:
        """Yields the events of the call, ending with `completed`, or raises.

        Close it (`aclosing`) when leaving early; that cancels the work upstream. What `check`
        raises at an event ends the call, and is recorded as its end.
        """
        live = self._live_calls.track(call.end)
        is_heard = True  # by the client, which waits for an end
        try:
            with live, ExitStack() as settling:
                call.guard = live
                settling.callback(self._spans.conclude, self._spans.describe(call), call)
                for stage in reversed(self.stages):
                    settling.callback(stage.settle, call)
                try:
                    async with aclosing(live.relayed(self._events(call))) as events:
                        async for event in events:
                            if check is not None:
                                check(event)
                            if isinstance(event.facts, CompletedFacts):
                                await self._secure(call)
                            yield event
                except BaseException as error:
                    is_heard = isinstance(error, Exception) or live.error is not None
                    call.outcome = _FAILED  # stands where the next line fails
                    call.outcome = self._outcome_of(_cause(error, live, call))
                    raise
        except BaseException:
            if is_heard:
                await self._secure(call)
            raise

    async def _secure(self, call: InferenceCall) -> None:
        for stage in self.stages:
            await stage.secure(call)

    async def _events(self, call: InferenceCall) -> Events:
        for stage in self.stages:
            with self._spans.stage(stage.name):
                await stage.admit(call)
        events: Events = _nothing()
        for stage in self.stages:
            events = stage.follow(call, events)
        async with aclosing(events) as followed:
            async for event in followed:
                call.progress.observe(event.facts, self._clock())
                yield event


async def _nothing() -> Events:
    return
    yield


def _cause(error: BaseException, live: LiveCall, call: InferenceCall) -> BaseException:
    """Why the call ended, where the exception is only how."""
    if not isinstance(error, asyncio.CancelledError | GeneratorExit):
        return error
    if live.error is not None:
        return live.error
    time_left = call.time_left()
    if time_left is not None and time_left <= 0:
        return CallerDeadlineError()
    return CallerLeftError()
