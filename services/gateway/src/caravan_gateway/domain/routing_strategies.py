"""Which of several workers takes a call."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from caravan_gateway.domain.models import Endpoint

_WEIGHT = 0.3  # of the newest time in the mean
_FORGETTING = 1 / 32  # of a mean, with each call that goes past its worker
_MOST_WORKERS = 1024
DEFAULT_AFFINITY_CALLS = 4.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that could serve the call, and how busy this gateway keeps it.

    `held_share` is how much of the call's input it has in memory, 0 to 1.
    """

    endpoint: Endpoint
    calls_in_flight: int
    held_share: float = 0.0


class RoutingStrategy(Protocol):
    """Chooses among workers."""

    def choose(self, candidates: Sequence[Candidate]) -> Endpoint:
        """Returns one of the candidates, of which there is at least one."""

    def observe(self, worker_id: str, first_event_s: float) -> None:
        """Learns how long a worker took to its first event of a call."""


class RoundRobin:
    """Takes the workers in turn, however busy they are."""

    def __init__(self) -> None:
        self._num_choices = 0

    def choose(self, candidates: Sequence[Candidate]) -> Endpoint:
        """Returns the next candidate."""
        self._num_choices += 1
        return candidates[self._num_choices % len(candidates)].endpoint

    def observe(self, worker_id: str, first_event_s: float) -> None:
        """Learns nothing."""


class LeastLoaded:
    """Takes the worker with the fewest calls in flight, in turn where several are equal."""

    def __init__(self) -> None:
        self._num_choices = 0

    def choose(self, candidates: Sequence[Candidate]) -> Endpoint:
        """Returns the least loaded candidate."""
        least = min(candidate.calls_in_flight for candidate in candidates)
        equal = [one.endpoint for one in candidates if one.calls_in_flight == least]
        self._num_choices += 1
        return equal[self._num_choices % len(equal)]

    def observe(self, worker_id: str, first_event_s: float) -> None:
        """Learns nothing."""


class Adaptive:
    """Takes the worker on which a call probably waits least, by what it lately took.

    The estimate is the mean time to a worker's first event, times the calls that it would have. A
    longer time counts at once, shorter ones slowly; a worker that is passed over is forgiven bit by
    bit, so it gets another chance. Workers that were never seen come first.

    Before all that comes whoever has the beginning of the input, unless it is too busy: with the
    whole input in memory a worker may have `affinity_calls` more calls than the least busy one,
    with a part of it that part of them.

    Source: Peak EWMA of Finagle's load balancers, with forgetting by calls in place of seconds;
    the bound on imbalance is SGLang's router's, made dependent on what there is to save.
    """

    def __init__(self, affinity_calls: float = DEFAULT_AFFINITY_CALLS) -> None:
        self._affinity_calls = affinity_calls
        self._means_s: dict[str, float] = {}
        self._fallback = LeastLoaded()

    def choose(self, candidates: Sequence[Candidate]) -> Endpoint:
        """Returns a holder, else the one with the smallest estimate, the least loaded of equals."""
        candidates = self._holders(candidates) or candidates
        ids = {one.endpoint.worker_id for one in candidates}
        costs = {one.endpoint.worker_id: self._cost(one) for one in candidates}
        least = min(costs.values())
        chosen = self._fallback.choose(
            [one for one in candidates if costs[one.endpoint.worker_id] == least]
        )
        for worker_id in (self._means_s.keys() & ids) - {chosen.worker_id}:
            self._means_s[worker_id] *= 1 - _FORGETTING
        return chosen

    def observe(self, worker_id: str, first_event_s: float) -> None:
        """Moves the mean of a worker."""
        mean_s = self._means_s.pop(worker_id, first_event_s)
        moved_s = mean_s + _WEIGHT * (first_event_s - mean_s)
        self._means_s[worker_id] = max(first_event_s, moved_s)
        while len(self._means_s) > _MOST_WORKERS:  # processes that are gone, the longest unheard
            del self._means_s[next(iter(self._means_s))]

    def _holders(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that have most of the input, of those that have some and aren't too busy."""
        least = min(one.calls_in_flight for one in candidates)
        able = [
            one
            for one in candidates
            if one.held_share > 0
            and one.calls_in_flight - least <= self._affinity_calls * one.held_share
        ]
        most = max((one.held_share for one in able), default=0.0)
        return [one for one in able if one.held_share == most]

    def _cost(self, candidate: Candidate) -> float:
        mean_s = self._means_s.get(candidate.endpoint.worker_id, 0.0)
        return mean_s * (candidate.calls_in_flight + 1)


class RoutingName(StrEnum):
    """The strategies, as settings name them."""

    ROUND_ROBIN = "round_robin"
    LEAST_LOADED = "least_loaded"
    ADAPTIVE = "adaptive"


def strategy_named(
    name: RoutingName, affinity_calls: float = DEFAULT_AFFINITY_CALLS
) -> RoutingStrategy:
    """Makes a strategy; `affinity_calls` is of use to `adaptive` alone."""
    match name:
        case RoutingName.ROUND_ROBIN:
            return RoundRobin()
        case RoutingName.LEAST_LOADED:
            return LeastLoaded()
        case RoutingName.ADAPTIVE:
            return Adaptive(affinity_calls)
