"""Refuses at once what can't be done in time, so that callers may try elsewhere at once."""

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from caravan_engine.domain.errors import DeadlineUnreachableError
from caravan_engine.domain.events import FINISHES
from caravan_engine.domain.request import ClientKey, GenerationRequest, QueuedRequest
from caravan_engine.domain.scheduling.expected_output import ExpectedOutput
from caravan_engine.domain.scheduling.fairness import (
    INPUT_TOKEN_COST,
    OUTPUT_TOKEN_COST,
    ClientWeights,
)
from caravan_engine.domain.scheduling.forecast import Forecast, Work, forecast
from caravan_engine.domain.scheduling.rates import StepRates
from caravan_engine.domain.scheduling.seen_prefixes import SeenPrefixes
from caravan_engine.domain.sequence import Sequence, SequenceGroup
from caravan_engine.domain.step import StepPlan

_MARGIN = 1.25
_TRUSTED_S = 60.0
_FORGETTING = 0.05  # of what was asked and computed, with each request


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A request that isn't admitted yet."""

    priority: int
    client: ClientKey
    works: tuple[Work, ...]  # of each sequence
    cost: float  # what its client will be charged for it, by its weight


class DeadlineGuard:
    """Knows who is ahead of whom, and what the measured rates make of it.

    `check` and `entered` may be called from any thread; the rest (`SchedulerObserver`) belongs to
    the decode thread. Their one lock is held for moments only, never during a step.

    It refuses too little rather than too much. Nothing is refused before three steps of each kind
    were measured, nor when the last step was a minute ago (or refusals alone could keep a rate of
    bad times alive), nor unless the forecast exceeds what is left by a quarter. Of those with
    higher priority all are ahead, of the same priority those whom fairness will let pass, of lower
    ones and of later ones nobody. Ageing, parked requests, and time for which readers pause or
    cells lack don't count. How much output to expect follows from the share of their bound that
    requests used so far, so one that would end much sooner than usual may be refused. Input that
    any request of the tenant began with lately is taken to be in memory (`SeenPrefixes`), and the
    rest to be computed in the share that proved necessary.

    Args:
        rates: What was measured.
        num_seats: Sequences that decode together.
        is_active: Whether it refuses anything.
        weights: Shares of capacity.
        outputs: How much output to expect, which it teaches.
    """

    def __init__(
        self,
        rates: StepRates,
        *,
        num_seats: int,
        is_active: bool = True,
        weights: ClientWeights | None = None,
        outputs: ExpectedOutput | None = None,
    ) -> None:
        self._rates = rates
        self._num_seats = num_seats
        self._is_active = is_active
        self._weights = weights or ClientWeights()
        self._outputs = outputs or ExpectedOutput()
        self._seen = SeenPrefixes()
        self._lock = threading.Lock()
        self._waiting: dict[SequenceGroup, _Waiting] = {}
        self._running: tuple[Work, ...] = ()  # replaced as a whole
        self._stepped_at = float("-inf")
        self._asked_input = 0.0
        self._computed_input = 0.0
        self._input_share = 1.0

    # ── any thread ──

    def check(self, group: SequenceGroup, now: float) -> None:
        """Looks whether a request can be done by its deadline.

        Raises:
            DeadlineUnreachableError: with the forecast, and what is left until the deadline.
        """
        deadline = group.request.deadline
        if not self._is_active or deadline is None or deadline <= now:
            return  # a deadline that is past is told as such by the scheduler
        if not self._rates.current.can_foresee or now - self._stepped_at > _TRUSTED_S:
            return
        remaining_s, foreseen = deadline - now, self.forecast(group)
        if foreseen.total_s > remaining_s * _MARGIN:
            raise DeadlineUnreachableError(estimate_s=foreseen.total_s, remaining_s=remaining_s)

    def forecast(self, group: SequenceGroup) -> Forecast:
        """Foresees a request that isn't in the queue yet."""
        own = self._entry(group)
        with self._lock:
            waiting = list(self._waiting.values())
        ahead = [work for each in _ahead(own, waiting) for work in each.works]
        rates = self._rates.current
        token_s = (rates.prefill_token_s or 0.0) * self._input_share
        return forecast(
            own.works,
            [*self._running, *ahead],
            rates=replace(rates, prefill_token_s=token_s),
            num_seats=self._num_seats,
        )

    def entered(self, group: SequenceGroup) -> None:
        """A request waits from now on."""
        entry = self._entry(group)
        if isinstance(group.request, GenerationRequest):
            self._seen.add(group.request.client.tenant, group.request.prompt)
        with self._lock:
            self._waiting[group] = entry

    # ── domain.ports.SchedulerObserver ──

    def admitted(self, group: SequenceGroup, now: float) -> None:
        """It waits no more, and its input will be computed."""
        entry = self._forget(group)
        if entry is not None:
            asked = sum(each.input_tokens for each in entry.works)
            self._asked_input += asked - _FORGETTING * self._asked_input
            self._computed_input -= _FORGETTING * self._computed_input

    def started(self, group: SequenceGroup, now: float) -> None:
        """Changes nothing; it counts from its admission on."""

    def parked(self, group: SequenceGroup, now: float) -> None:
        """Changes nothing; parked requests don't count."""

    def generated(self, sequence: Sequence, now: float) -> None:
        """Changes nothing; `stepped` looks at all sequences."""

    def ended(self, group: SequenceGroup, outcome: str, now: float) -> None:
        """Learns what a request left in memory, and how much of its bound it used."""
        self._forget(group)
        self._outputs.learn(group, outcome)
        request = group.request
        if outcome in FINISHES and isinstance(request, GenerationRequest):
            for each in group.sequences:
                self._seen.add(request.client.tenant, each.tokens)

    def stepped(self, plan: StepPlan, running: Iterable[Sequence], now: float) -> None:
        """A step was computed; `running` are those with a seat after it."""
        self._stepped_at = now
        self.rested(running)
        self._computed_input += sum(len(each.tokens) for each in plan.chunks if not each.is_decode)
        if self._asked_input:
            self._input_share = min(1.0, self._computed_input / self._asked_input)

    def rested(self, running: Iterable[Sequence]) -> None:
        """There is nothing to compute, for those who still have a seat either."""
        self._running = tuple(map(self._work, running))

    # ── what there is to do ──

    def _forget(self, group: SequenceGroup) -> _Waiting | None:
        with self._lock:
            return self._waiting.pop(group, None)

    def _entry(self, group: SequenceGroup) -> _Waiting:
        request = group.request
        works = [self._work(each) for each in group.live]
        if works:  # what its choices have in common is computed once, in the name of the first
            cached = self._num_cached(request)
            shared = (len(works) - 1) * group.num_shared
            num_input = sum(each.input_tokens for each in works) - cached - shared
            works = [Work(0, each.output_tokens) for each in works]
            works[0] = Work(max(0, num_input), works[0].output_tokens)
        cost = sum(
            each.input_tokens * INPUT_TOKEN_COST + each.output_tokens * OUTPUT_TOKEN_COST
            for each in works
        )
        weight = self._weights.of(request.client)
        return _Waiting(request.priority, request.client, tuple(works), cost / weight)

    def _num_cached(self, request: QueuedRequest) -> int:
        """Returns how many tokens needn't be computed, if all that was computed is still there."""
        if not isinstance(request, GenerationRequest):
            return 0
        return self._seen.num_seen(request.client.tenant, request.prompt)

    def _work(self, sequence: Sequence) -> Work:
        request = sequence.request
        if not isinstance(request, GenerationRequest):
            return Work(sequence.num_pending, 0.0)
        num_pending = len(sequence.tokens) - sequence.num_computed
        num_input = num_pending if num_pending > 1 else 0
        return Work(num_input, self._outputs.remaining(sequence))


def _ahead(own: _Waiting, waiting: Iterable[_Waiting]) -> Iterator[_Waiting]:
    """Yields whose turn comes before that of a newcomer.

    Its own client's earlier requests at its priority, and as much of each other client's as costs
    what those do: then it is the newcomer's turn.
    """
    peers: dict[ClientKey, list[_Waiting]] = defaultdict(list)
    for each in waiting:
        if each.priority > own.priority:
            yield each
        elif each.priority == own.priority:
            peers[each.client].append(each)
    earlier = peers.pop(own.client, [])
    yield from earlier
    limit = sum(each.cost for each in earlier)
    for line in peers.values():
        passed = 0.0
        for each in line:
            if passed >= limit:
                break
            passed += each.cost
            yield each
