"""Runs calls on workers, and goes on elsewhere where one is lost in the middle."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from caravan_gateway.domain.errors import GatewayError, PoisonRequestError, WorkerDiedError
from caravan_gateway.domain.failover import (
    GONE,
    FailoverOutcome,
    FailoverRules,
    Loss,
    may_pass,
)
from caravan_gateway.domain.generation import GenerationSpec, choice_count_of
from caravan_gateway.domain.inference_call import Events, InferenceCall
from caravan_gateway.domain.inference_facts import RunFacts, StartedFacts
from caravan_gateway.domain.models import Endpoint
from caravan_gateway.domain.poison import Passenger, PoisonWatch, Verdict
from caravan_gateway.domain.ports import WorkerRunner
from caravan_gateway.domain.routing import Lease, Router
from caravan_gateway.runtime.call_spans import CallSpans

_log = logging.getLogger(__name__)


class FailoverObserver(Protocol):
    """Hears of calls that lost their worker."""

    def ended(self, outcome: FailoverOutcome) -> None:
        """It is decided what becomes of a call."""

    def paused(self, pause_s: float) -> None:
        """A call went on, so long after the loss."""


@dataclass(frozen=True, slots=True)
class FailoverTools:
    """What going on elsewhere needs of the outside.

    `loss_of` says what an exception means for the call's worker, None where it is the call's own
    end. `clock` is monotonic, in seconds; `sleep` waits between two looks for a worker.
    """

    rules: FailoverRules
    loss_of: Callable[[BaseException], Loss | None]
    observer: FailoverObserver
    spans: CallSpans
    clock: Callable[[], float]
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep


class FailingOver:
    """Implements CallRunner. Owned by the event loop; each call by the task that iterates it."""

    def __init__(
        self, workers: WorkerRunner, router: Router, poison: PoisonWatch, tools: FailoverTools
    ) -> None:
        self.workers = workers
        self.router = router
        self.poison = poison
        self.tools = tools
        self.trials: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def run(self, call: InferenceCall) -> Events:
        """See the port."""
        return _Journey(self, call).events()


class _Journey:
    """One call from worker to worker."""

    def __init__(self, runner: FailingOver, call: InferenceCall) -> None:
        self._runner = runner
        self._tools = runner.tools
        self._call = call
        self._passenger = Passenger()
        self._lost_at_s: float | None = None  # until there is news for the client
        self._searched_s = 0.0  # since the last news
        self._pause_s = runner.tools.rules.first_pause_s
        self._trial: asyncio.Lock | None = None
        self._lost: list[Endpoint] = []  # which may still work for the call

    async def events(self) -> Events:
        """Yields what the client doesn't have yet, from one worker after the other."""
        try:
            async with aclosing(self._from_all_workers()) as events:
                async for event in events:
                    yield event
        finally:
            self._end_trial()
            self._disown_lost()
            self._settle(FailoverOutcome.ENDED)

    async def _from_all_workers(self) -> Events:
        while True:
            try:
                async with aclosing(self._from_one_worker(_lease_of(self._call))) as events:
                    async for event in events:
                        yield event
                return
            except Exception as error:
                loss = self._loss_in(error)
                if loss is None:
                    raise
                lost_by = error
            self._lose(loss)
            if self._call.emitted.is_over(choice_count_of(self._call.spec)):
                self._settle(FailoverOutcome.CONTINUED)
                yield self._runner.workers.completed(self._call)
                return
            await self._go_on(loss, lost_by)

    async def _from_one_worker(self, lease: Lease) -> Events:
        """Yields what a worker has for the client; says what it learns of the worker."""
        runner, endpoint = self._runner, lease.endpoint
        says_when = isinstance(self._call.spec, GenerationSpec)  # it is computed
        runner.poison.board(self._passenger, endpoint.worker_id, is_computed=not says_when)
        began_s = self._tools.clock()
        has_worked = False
        try:
            async with aclosing(runner.workers.run(endpoint, self._call)) as events:
                async for event in events:
                    if self._takes(event.facts, lease):
                        yield event
                    if not has_worked:
                        has_worked = True
                        runner.router.worked(endpoint, self._tools.clock() - began_s)
        except Exception as error:
            self._call.kept_on = None  # it is over there, or nobody knows
            loss = self._tools.loss_of(error)
            if loss in GONE:
                runner.router.broke(endpoint)
            if loss is Loss.LEAVING:
                runner.router.leaves(endpoint)
            if loss is Loss.DIED:
                runner.poison.died(endpoint.worker_id, self._tools.clock())
            raise
        finally:
            runner.poison.leave(self._passenger, endpoint.worker_id)

    def _takes(self, facts: RunFacts, lease: Lease) -> bool:
        """Takes an event in; returns whether it is news for the client."""
        if isinstance(facts, StartedFacts):
            if facts.model_digest != lease.endpoint.model_digest:
                raise WorkerDiedError(self._call.model)  # another worker has its port now
            self._runner.poison.board(self._passenger, lease.endpoint.worker_id, is_computed=True)
            self._call.kept_on = lease.endpoint
        is_news = self._call.emitted.take(facts)
        if is_news:
            self._settle(FailoverOutcome.CONTINUED)
            self._searched_s, self._pause_s = 0.0, self._tools.rules.first_pause_s
        if not isinstance(facts, StartedFacts):
            self._end_trial(self._tools.clock())
        return is_news

    def _loss_in(self, error: Exception) -> Loss | None:
        """What loss an exception means for this call."""
        loss = self._tools.loss_of(error)
        has_begun = self._call.emitted.has_begun or self._call.failover_count > 0
        if self._tools.rules.timeout_s <= 0 or (loss is Loss.FULL and not has_begun):
            return None
        return loss

    def _lose(self, loss: Loss) -> None:
        call = self._call
        if self._lost_at_s is None:
            self._lost_at_s = self._tools.clock()
            marks = {"request_id": call.request_id, "model": call.model, "loss": loss.value}
            _log.warning("a call lost its worker", extra=marks)
        self._end_trial()
        if loss is Loss.DIED:
            self._lost.append(_lease_of(call).endpoint)
        _lease_of(call).release()
        call.lease = None

    async def _go_on(self, loss: Loss, error: Exception) -> None:
        """Leases another worker.

        Raises:
            PoisonRequestError: the request is not tried again.
            Exception: `error`, if there is no worker.
        """
        call, verdict = self._call, self._passenger.verdict
        if loss is Loss.DIED and verdict is Verdict.POISON:
            self._settle(FailoverOutcome.POISON)
            raise PoisonRequestError(call.model, len(self._passenger.deaths)) from None
        with self._tools.spans.failover(loss, call.emitted.num_tokens):
            if loss is Loss.DIED and verdict is Verdict.SUSPECT:
                await self._begin_trial()
            call.lease = await self._find_worker(loss, error)
        self._disown_lost(call.lease.endpoint)
        call.failover_count += loss is not Loss.FULL

    async def _find_worker(self, loss: Loss, error: Exception) -> Lease:
        if loss is Loss.FULL:
            await self._pause()  # the worker is still there, and would say the same
        while True:
            try:
                return self._runner.router.lease(
                    self._call.model, self._call.emitted.model_digest, self._call.marks
                )
            except GatewayError as reason:
                if not may_pass(reason) or self._searched_s >= self._tools.rules.timeout_s:
                    self._settle(FailoverOutcome.GIVEN_UP)
                    raise error from None
            await self._pause()

    def _disown_lost(self, back_at: Endpoint | None = None) -> None:
        """Ends what lost workers may still do; the one that it is back at goes on with it."""
        lost, self._lost = self._lost, []
        for endpoint in lost:
            if self._call.usage_id and endpoint != back_at:
                self._runner.workers.disown(endpoint, self._call)

    async def _pause(self) -> None:
        began_s = self._tools.clock()
        await self._tools.sleep(self._pause_s)
        self._searched_s += self._tools.clock() - began_s
        self._pause_s = min(2 * self._pause_s, self._tools.rules.max_pause_s)

    def _settle(self, outcome: FailoverOutcome) -> None:
        """Says what became of the call after a loss, if there was one."""
        if self._lost_at_s is None:
            return
        if outcome is FailoverOutcome.CONTINUED:
            self._tools.observer.paused(self._tools.clock() - self._lost_at_s)
        self._tools.observer.ended(outcome)
        self._lost_at_s = None

    async def _begin_trial(self) -> None:
        trial = self._runner.trials[self._call.model]
        await trial.acquire()
        self._trial = trial
        self._runner.poison.begin_trial(self._passenger)

    def _end_trial(self, acquitted_s: float | None = None) -> None:
        self._runner.poison.end_trial(self._passenger, acquitted_s)
        if self._trial is not None:
            self._trial.release()
            self._trial = None


def _lease_of(call: InferenceCall) -> Lease:
    if call.lease is None:
        raise TypeError("the route stage comes before the stream stage")
    return call.lease
