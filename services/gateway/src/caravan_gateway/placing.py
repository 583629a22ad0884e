"""How calls get their workers, put together; part of the composition."""

import asyncio
import time

from caravan_gateway.clients.prefix_watch import PrefixWatch
from caravan_gateway.clients.worker_channels import WorkerChannels
from caravan_gateway.config import GatewaySettings
from caravan_gateway.domain.admission import Route
from caravan_gateway.domain.affinity import HeldPrefixes
from caravan_gateway.domain.arrival import ArrivalRules, Arrivals
from caravan_gateway.domain.circuit_breaker import CircuitBreakers
from caravan_gateway.domain.models import ModelCatalog
from caravan_gateway.domain.routing import Router
from caravan_gateway.domain.routing_strategies import RoutingName, strategy_named
from caravan_gateway.rpc.input_marks import marks_of

_MAX_BREAKER_S = 30.0


class Placing:
    """The router, who waits for it, and what it knows of workers. Owned by the event loop."""

    def __init__(
        self, settings: GatewaySettings, catalog: ModelCatalog, workers: WorkerChannels
    ) -> None:
        engine, failover = settings.engine, settings.failover
        self._catalog = catalog
        self._knows_prefixes = engine.routing is RoutingName.ADAPTIVE
        held = HeldPrefixes()
        self._prefixes = PrefixWatch(workers, held)
        self.router = Router(
            catalog,
            strategy_named(engine.routing, engine.affinity_calls),
            breakers=CircuitBreakers(first_rest_s=failover.breaker_s, max_rest_s=_MAX_BREAKER_S),
            clock=time.monotonic,
            held=held,
        )
        self.arrivals = Arrivals(
            self.router,
            ArrivalRules(failover.arrival_timeout_s),
            clock=time.monotonic,
            sleep=asyncio.sleep,
        )

    def route(self) -> Route:
        """The stage that finds a call's worker."""
        if self._knows_prefixes:
            return Route(self._catalog, self.arrivals, marks_of)
        return Route(self._catalog, self.arrivals)

    def heard(self) -> None:
        """Hosts said something new: follows the workers that there are now."""
        if self._knows_prefixes:
            self._prefixes.follow(self._catalog.endpoints())

    async def close(self) -> None:
        """Ends what follows workers."""
        await self._prefixes.close()
