"""Leases workers to calls."""

from collections import Counter
from collections.abc import Callable

from caravan_gateway.domain.affinity import HeldPrefixes, InputMarks
from caravan_gateway.domain.circuit_breaker import CircuitBreakers
from caravan_gateway.domain.errors import WorkerDiedError
from caravan_gateway.domain.models import Endpoint, ModelCatalog
from caravan_gateway.domain.routing_strategies import Candidate, RoutingStrategy

_MOST_LEAVING = 1024


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

    def __init__(
        self,
        catalog: ModelCatalog,
        strategy: RoutingStrategy,
        *,
        breakers: CircuitBreakers,
        clock: Callable[[], float],
        held: HeldPrefixes | None = None,
    ) -> None:
        self._catalog = catalog
        self._strategy = strategy
        self._breakers = breakers
        self._clock = clock
        self._held = held or HeldPrefixes()
        self._in_flight: Counter[str] = Counter()
        self._leaving: dict[str, None] = {}  # said that they drain, the last one at the end

    @property
    def num_leases(self) -> int:
        """Calls in flight over all workers."""
        return self._in_flight.total()

    @property
    def num_entries(self) -> int:
        """Workers with calls in flight."""
        return len(self._in_flight)

    def lease(
        self, model: str, digest: str | None = None, marks: InputMarks | None = None
    ) -> Lease:
        """Claims a worker of `model`, a resolved name, that has not just lost a stream.

        Args:
            model: what to run.
            digest: of the model's file, where it matters.
            marks: of the input, if it matters who has its beginning.

        Raises:
            GatewayError: why no worker takes the call.
        """
        now_s = self._clock()
        candidates = [
            Candidate(
                endpoint,
                self._in_flight[endpoint.worker_id],
                self._held.share(endpoint.worker_id, marks) if marks else 0.0,
            )
            for endpoint in self._catalog.endpoints_of(model)
            if digest in (None, endpoint.model_digest)
            and endpoint.worker_id not in self._leaving
            and not self._breakers.is_open(endpoint.worker_id, now_s)
        ]
        if not candidates:
            raise WorkerDiedError(model)
        return self.lease_on(self._strategy.choose(candidates))

    def lease_on(self, endpoint: Endpoint) -> Lease:
        """Claims this worker and no other."""
        self._in_flight[endpoint.worker_id] += 1
        return Lease(self, endpoint)

    def worked(self, endpoint: Endpoint, first_event_s: float) -> None:
        """The worker sent its first event of a call after so many seconds."""
        self._breakers.worked(endpoint.worker_id)
        self._strategy.observe(endpoint.worker_id, first_event_s)

    def broke(self, endpoint: Endpoint) -> None:
        """A stream of the worker broke; it gets no calls for a while."""
        self._breakers.broke(endpoint.worker_id, self._clock())

    def leaves(self, endpoint: Endpoint) -> None:
        """The worker drains, which no process takes back; it gets no calls any more."""
        self._leaving.pop(endpoint.worker_id, None)
        self._leaving[endpoint.worker_id] = None
        if len(self._leaving) > _MOST_LEAVING:
            del self._leaving[next(iter(self._leaving))]

    def give_back(self, endpoint: Endpoint) -> None:
        """Ends one claim on the worker; called by the lease."""
        self._in_flight[endpoint.worker_id] -= 1
        if not self._in_flight[endpoint.worker_id]:
            del self._in_flight[endpoint.worker_id]
