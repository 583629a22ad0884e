import asyncio

import pytest

from caravan_gateway.domain.arrival import ArrivalRules, Arrivals
from caravan_gateway.domain.circuit_breaker import CircuitBreakers
from caravan_gateway.domain.errors import (
    DependencyUnavailableError,
    ModelDrainingError,
    ModelFailedError,
    ModelLoadingError,
    ModelNotLoadedError,
    WorkerDiedError,
)
from caravan_gateway.domain.models import ModelCatalog, ModelState, Picture, ServedModel
from caravan_gateway.domain.routing import Router
from caravan_gateway.domain.routing_strategies import LeastLoaded

RULES = ArrivalRules(timeout_s=10.0, first_pause_s=0.25, max_pause_s=1.0)


class World:
    """A catalog that a test changes while a call sleeps."""

    def __init__(self, clock, make_endpoint):
        self._clock = clock
        self._make_endpoint = make_endpoint
        self.catalog = ModelCatalog(["a:1"])
        breakers = CircuitBreakers(first_rest_s=3.0, max_rest_s=4.0)
        self.router = Router(self.catalog, LeastLoaded(), breakers=breakers, clock=clock)
        self.sleeps_s = []
        self.on_sleep = lambda: None

    def say(self, state=ModelState.LOADING, *worker_ids, restarting=False, leaving=False):
        model = ServedModel("tiny", (), state, restarting)
        endpoints = tuple(map(self._make_endpoint, worker_ids))
        self.catalog.update("a:1", Picture("a", (model,), endpoints, leaving))

    def arrivals(self, rules=RULES):
        return Arrivals(self.router, rules, clock=self._clock, sleep=self._sleep)

    async def _sleep(self, pause_s):
        self.sleeps_s.append(pause_s)
        self._clock.advance(pause_s)
        await asyncio.sleep(0)
        self.on_sleep()


@pytest.fixture
def world(fake_clock, make_endpoint):
    return World(fake_clock, make_endpoint)


async def test_whoever_finds_a_worker_does_not_wait(world):
    world.say(ModelState.READY, "w1")
    assert (await world.arrivals().lease("tiny")).endpoint.worker_id == "w1"
    assert world.sleeps_s == []


async def test_a_call_waits_for_the_worker_that_is_restarted(world):
    world.say(restarting=True)
    arrivals = world.arrivals()

    def come():
        assert arrivals.num_waiting == 1
        if len(world.sleeps_s) == 5:
            world.say(ModelState.READY, "w2")

    world.on_sleep = come
    assert (await arrivals.lease("tiny")).endpoint.worker_id == "w2"
    assert world.sleeps_s == [0.25, 0.5, 1.0, 1.0, 1.0]
    assert arrivals.num_waiting == 0


async def test_a_worker_that_rests_is_waited_for(world):
    world.say(ModelState.READY, "w1")
    lease = world.router.lease("tiny")
    world.router.broke(lease.endpoint)
    assert (await world.arrivals().lease("tiny")).endpoint.worker_id == "w1"
    assert sum(world.sleeps_s) >= 3.0


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"restarting": True}, WorkerDiedError),
        ({"state": ModelState.LOADING}, ModelLoadingError),
        ({"state": ModelState.DRAINING, "leaving": True}, DependencyUnavailableError),
    ],
)
async def test_the_wait_is_bounded_and_then_its_reason_is_told(world, said, reason):
    world.say(**said)
    with pytest.raises(reason):
        await world.arrivals().lease("tiny")
    assert 10.0 <= sum(world.sleeps_s) < 11.0


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (ModelState.UNLOADED, ModelNotLoadedError),
        (ModelState.FAILED, ModelFailedError),
        (ModelState.DRAINING, ModelDrainingError),
    ],
)
async def test_what_does_not_come_back_is_not_waited_for(world, state, reason):
    world.say(state)
    with pytest.raises(reason):
        await world.arrivals().lease("tiny")
    assert world.sleeps_s == []


async def test_without_time_to_wait_a_call_is_refused_at_once(world):
    world.say(restarting=True)
    with pytest.raises(WorkerDiedError):
        await world.arrivals(ArrivalRules(timeout_s=0)).lease("tiny")
    assert world.sleeps_s == []
