"""Which of several workers takes a call."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from caravan_gateway.domain.models import Endpoint

_WEIGHT = 0.3  # of the newest time in the mean
_FORGETTING = 1 / 32  # of a mean, with each call that goes past its worker
_MOST_WORKERS = 1024


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that could serve the call, and how busy this gateway keeps it."""

    endpoint: Endpoint
    calls_in_flight: int


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

    Source: Peak EWMA of Finagle's load balancers, with forgetting by calls in place of seconds.
    """

    def __init__(self) -> None:
        self._means_s: dict[str, float] = {}
        self._fallback = LeastLoaded()

    def choose(self, candidates: Sequence[Candidate]) -> Endpoint:
        """Returns the candidate with the smallest estimate, the least loaded among equals."""
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

    def _cost(self, candidate: Candidate) -> float:
        mean_s = self._means_s.get(candidate.endpoint.worker_id, 0.0)
        return mean_s * (candidate.calls_in_flight + 1)


class RoutingName(StrEnum):
    """The strategies, as settings name them."""

    ROUND_ROBIN = "round_robin"
    LEAST_LOADED = "least_loaded"
    ADAPTIVE = "adaptive"


_STRATEGIES: dict[RoutingName, type[RoundRobin | LeastLoaded | Adaptive]] = {
    RoutingName.ROUND_ROBIN: RoundRobin,
    RoutingName.LEAST_LOADED: LeastLoaded,
    RoutingName.ADAPTIVE: Adaptive,
}


def strategy_named(name: RoutingName) -> RoutingStrategy:
    """Makes a strategy."""
    return _STRATEGIES[name]()
