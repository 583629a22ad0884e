"""Which worker serves a call."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from caravan_gateway.domain.models import Endpoint, ModelCatalog


@dataclass(frozen=True, slots=True)
class Candidate:
    """A worker that could serve the call, and how busy this gateway keeps it."""

    endpoint: Endpoint
    calls_in_flight: int


class RoutingStrategy(Protocol):
    """Chooses among workers."""

    def choose(self, candidates: Sequence[Candidate]) -> Endpoint:
        """Returns one of the candidates, of which there is at least one."""


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


class Lease:
    """One call's claim on a worker, until it is released."""

    def __init__(self, router: "Router", endpoint: Endpoint) -> None:
        self._router: Router | None = router
        self.endpoint = endpoint

    def release(self) -> None:
        """Ends the claim; more than once does nothing."""
        router, self._router = self._router, None
        if router is not None:
            router.give_back(self.endpoint)


class Router:
    """Leases workers to calls and counts what is in flight. Owned by the event loop."""

    def __init__(self, catalog: ModelCatalog, strategy: RoutingStrategy) -> None:
        self._catalog = catalog
        self._strategy = strategy
        self._in_flight: Counter[str] = Counter()

    @property
    def num_leases(self) -> int:
        """Calls in flight over all workers."""
        return self._in_flight.total()

    @property
    def num_entries(self) -> int:
        """Workers with calls in flight."""
        return len(self._in_flight)

    def lease(self, model: str) -> Lease:
        """Claims a worker of `model`, a resolved name.

        Raises:
            GatewayError: why no worker takes the call.
        """
        candidates = [
            Candidate(endpoint, self._in_flight[endpoint.worker_id])
            for endpoint in self._catalog.endpoints_of(model)
        ]
        endpoint = self._strategy.choose(candidates)
        self._in_flight[endpoint.worker_id] += 1
        return Lease(self, endpoint)

    def give_back(self, endpoint: Endpoint) -> None:
        """Ends one claim on the worker; called by the lease."""
        self._in_flight[endpoint.worker_id] -= 1
        if not self._in_flight[endpoint.worker_id]:
            del self._in_flight[endpoint.worker_id]
