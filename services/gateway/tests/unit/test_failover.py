"""Calls that lose their workers, without a network and on a clock of their own."""

import asyncio
from contextlib import aclosing

import pytest
from opentelemetry.trace import NoOpTracer

from caravan_gateway.domain.circuit_breaker import CircuitBreakers
from caravan_gateway.domain.errors import PoisonRequestError, WorkerDiedError
from caravan_gateway.domain.failover import FailoverOutcome, FailoverRules, Loss
from caravan_gateway.domain.inference_call import RunEvent
from caravan_gateway.domain.inference_facts import (
    CompletedFacts,
    DeltaFacts,
    FinishedFacts,
    StartedFacts,
)
from caravan_gateway.domain.models import ModelCatalog, ModelState, Picture, ServedModel
from caravan_gateway.domain.poison import PoisonRules, PoisonWatch
from caravan_gateway.domain.routing import Router
from caravan_gateway.domain.routing_strategies import LeastLoaded
from caravan_gateway.runtime.call_spans import CallSpans
from caravan_gateway.runtime.failover import FailingOver, FailoverTools


class BusyError(Exception):
    """The queue is full."""


class LeavingError(Exception):
    """The worker is being drained."""


class ReplacedError(Exception):
    """Another worker has its port."""


LOSSES = {
    WorkerDiedError: Loss.DIED,
    BusyError: Loss.FULL,
    LeavingError: Loss.LEAVING,
    ReplacedError: Loss.REPLACED,
}


class World:
    """A host with workers, each of which plays scripts: events, and errors to end with."""

    def __init__(self, clock, make_endpoint):
        self.clock = clock
        self.outcomes = []
        self.pauses_s = []
        self.scripts = {}
        self.runs = []
        self.disowned = []
        self.sleeps_s = []
        self._make_endpoint = make_endpoint
        self._catalog = ModelCatalog(["a:1"])
        breakers = CircuitBreakers(first_rest_s=0.5, max_rest_s=4.0)
        self.router = Router(self._catalog, LeastLoaded(), breakers=breakers, clock=clock)
        tools = FailoverTools(
            rules=FailoverRules(timeout_s=10.0, first_pause_s=0.25, max_pause_s=1.0),
            loss_of=lambda error: LOSSES.get(type(error)),
            observer=self,
            spans=CallSpans(NoOpTracer()),
            clock=clock,
            sleep=self._sleep,
        )
        self.runner = FailingOver(self, self.router, PoisonWatch(PoisonRules()), tools)

    def workers(self, **scripts):
        """The workers that there are from now on, and what they play, run by run."""
        self.scripts.update({name: list(script) for name, script in scripts.items()})
        model = ServedModel("tiny", (), ModelState.READY)
        endpoints = tuple(map(self._make_endpoint, scripts))
        self._catalog.update("a:1", Picture("a", (model,), endpoints))

    async def run(self, endpoint, call):
        self.runs.append((endpoint.worker_id, call.emitted.num_tokens))
        script = self.scripts[endpoint.worker_id]
        for step in script.pop(0) if script else [WorkerDiedError("tiny")]:
            await asyncio.sleep(0)
            if isinstance(step, Exception):
                raise step
            yield RunEvent(step, step)

    def disown(self, endpoint, call):
        self.disowned.append(endpoint.worker_id)

    def completed(self, call):
        facts = CompletedFacts(4, 0, call.emitted.num_tokens, 0.0)
        return RunEvent(facts, facts)

    def ended(self, outcome):
        self.outcomes.append(outcome)

    def paused(self, pause_s):
        self.pauses_s.append(pause_s)

    async def _sleep(self, pause_s):
        self.sleeps_s.append(pause_s)
        self.clock.advance(pause_s)
        await asyncio.sleep(0)

    async def read(self, call):
        async with aclosing(self.runner.run(call)) as events:
            return [event.payload async for event in events]


@pytest.fixture
def world(fake_clock, make_endpoint):
    return World(fake_clock, make_endpoint)


@pytest.fixture
def leased(world, make_call):
    def make():
        call, _ = make_call()
        call.model = "tiny"
        call.lease = world.router.lease("tiny")
        return call

    return make


STARTED = StartedFacts("d1", 4, 0)
DIED = WorkerDiedError("tiny")


def tokens(first, count):
    return [DeltaFacts(0, number, [number]) for number in range(first, first + count)]


def ending(count):
    return [FinishedFacts(0, "length", count), CompletedFacts(4, 0, count, 1.0)]


async def test_a_call_goes_from_worker_to_worker_until_it_is_whole(world, leased):
    world.workers(w1=[[STARTED, *tokens(0, 2), DIED]])
    call = leased()
    world.workers(
        w1=[[STARTED, *tokens(0, 2), DIED]],
        w2=[[STARTED, *tokens(2, 3), LeavingError()]],
        w3=[[STARTED, *tokens(5, 1), *ending(6)]] * 2,
    )
    assert await world.read(call) == [STARTED, *tokens(0, 6), *ending(6)]
    assert [emitted for _, emitted in world.runs] in ([0, 2], [0, 2, 5])
    assert set(world.outcomes) == {FailoverOutcome.CONTINUED}
    assert call.failover_count == len(world.outcomes) == len(world.runs) - 1
    call.lease.release()
    assert world.router.num_leases == 0


async def test_the_search_is_bounded_by_the_time_without_news(world, leased):
    world.workers(w1=[[STARTED, *tokens(0, 2), DIED]])
    call, began_s = leased(), world.clock()
    with pytest.raises(WorkerDiedError):
        await world.read(call)
    assert 10.0 <= world.clock() - began_s < 12.0
    assert world.outcomes == [FailoverOutcome.GIVEN_UP]
    assert len(world.runs) <= 6  # the breaker rests longer and longer
    assert call.lease is None
    assert world.router.num_leases == 0


async def test_news_for_the_client_starts_the_time_anew(world, leased, fake_clock):
    world.workers(w1=[[STARTED, *tokens(0, 1), ReplacedError()]])
    call = leased()
    world.scripts["w1"] += [[STARTED, *tokens(n, 1), ReplacedError()] for n in range(1, 60)]
    world.scripts["w1"].append([STARTED, *tokens(60, 1), *ending(61)])
    began_s = fake_clock()
    assert (await world.read(call))[-1] == ending(61)[-1]
    assert fake_clock() - began_s > 10.0
    assert call.failover_count == 60


async def test_a_full_queue_is_asked_less_and_less_often(world, leased):
    world.workers(w1=[[STARTED, LeavingError()]])
    call = leased()
    world.workers(w2=[[BusyError()]] * 3 + [[STARTED, *tokens(0, 1), *ending(1)]])
    assert (await world.read(call))[-1] == ending(1)[-1]
    assert world.sleeps_s == [0.25, 0.5, 1.0]
    assert call.failover_count == 1


async def test_a_worker_that_leaves_is_not_asked_again(world, leased):
    world.workers(w1=[[STARTED, *tokens(0, 1), LeavingError()]])
    call = leased()
    world.workers(
        w1=[[STARTED, *tokens(0, 1), LeavingError()]],
        w2=[[STARTED, *tokens(1, 1), ReplacedError()], [STARTED, *ending(2)]],
    )
    assert (await world.read(call))[-1] == ending(2)[-1]
    assert [name for name, _ in world.runs] == ["w1", "w2", "w2"]


async def test_a_call_that_has_not_begun_is_refused_by_a_full_queue(world, leased):
    world.workers(w1=[[BusyError()]])
    with pytest.raises(BusyError):
        await world.read(leased())
    assert world.outcomes == []


async def test_an_error_that_is_the_calls_own_is_its_end(world, leased):
    world.workers(w1=[[STARTED, ValueError("mine")]])
    with pytest.raises(ValueError, match="mine"):
        await world.read(leased())
    assert world.outcomes == []


async def test_a_caller_that_leaves_ends_the_search(world, leased):
    world.workers(w1=[[STARTED, *tokens(0, 1), DIED]])
    call = leased()
    events = world.runner.run(call)
    await anext(events)
    await anext(events)
    task = asyncio.create_task(anext(events))
    while not world.sleeps_s:
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert world.outcomes == [FailoverOutcome.ENDED]
    assert world.router.num_leases == 0


async def test_suspects_go_on_one_at_a_time_and_the_culprit_fails_alone(world, leased):
    """Two innocent calls and one that kills whatever computes it, always on the same worker."""
    world.workers(w1=[])
    calls = [leased() for _ in range(3)]
    culprit, graves = calls[0], []

    async def run(endpoint, call):
        yield RunEvent(STARTED, STARTED)
        graves.append(endpoint.worker_id)
        for _ in range(20):  # let the others come aboard
            await asyncio.sleep(0)
        if call is culprit or world.dead == endpoint.worker_id:
            if world.dead != endpoint.worker_id:
                world.dead = endpoint.worker_id
                world.workers(**{f"w{len(graves) + 10}": []})
            raise WorkerDiedError("tiny")
        first = call.emitted.num_tokens
        for facts in [*tokens(first, 1), *ending(first + 1)]:
            yield RunEvent(facts, facts)

    world.dead, world.run = None, run
    ends = await asyncio.gather(*map(world.read, calls), return_exceptions=True)
    assert isinstance(ends[0], PoisonRequestError)
    assert ends[0].metadata == {"model": "tiny", "deaths": "3"}  # two in company, one on trial
    assert all(events[-1] == ending(1)[-1] for events in ends[1:])
    assert world.outcomes.count(FailoverOutcome.POISON) == 1


async def test_a_worker_that_a_kept_stream_left_is_told_so(world, leased):
    world.workers(w1=[[STARTED, *tokens(0, 2), DIED]])
    call = leased()
    call.usage_id = "u1"
    world.workers(w2=[[STARTED, *tokens(2, 1), *ending(3)]])
    await world.read(call)
    assert world.disowned == ["w1"]
    assert call.kept_on.worker_id == "w2"


async def test_a_stream_that_goes_on_where_it_was_is_left_alone(world, leased):
    world.workers(w1=[[STARTED, *tokens(0, 2), DIED], [STARTED, *tokens(2, 1), *ending(3)]])
    call = leased()
    call.usage_id = "u1"
    await world.read(call)
    assert world.disowned == []


async def test_a_call_that_nobody_keeps_count_of_is_told_to_nobody(world, leased):
    world.workers(w1=[[STARTED, *tokens(0, 2), DIED]])
    call = leased()
    world.workers(w2=[[STARTED, *tokens(2, 1), *ending(3)]])
    await world.read(call)
    assert world.disowned == []
