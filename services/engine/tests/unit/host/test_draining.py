"""Workers of a model that are drained one by one, replaced, or all at once."""

import asyncio

import pytest

from caravan_engine.host.models import ModelState
from caravan_engine.host.placement import MemoryNeed
from caravan_engine.host.replica_set import Drained
from caravan_engine.host.supervisor import ReplicaState


@pytest.fixture
async def pair(world):
    """A model with two workers that are ready."""
    loading = asyncio.create_task(world.collect("c", 2))
    await world.ready(0)
    await world.ready(1)
    await loading
    return world


def drain(world, index=None, *, model="c", restart=False):
    return asyncio.create_task(world.manager.drain(model, index, 1.5, restart=restart))


def ports(picture):
    return [endpoint.port for endpoint in picture.endpoints]


async def test_one_of_two_is_drained_and_the_other_stays(pair):
    pair.drain_gate.clear()
    draining = drain(pair, 0)
    await pair.until(lambda picture: ports(picture) == [7001])
    states = [each.state for each in pair.manager.view("c").replicas]
    assert states == [ReplicaState.DRAINING, ReplicaState.READY]
    pair.drain_gate.set()

    assert await draining == Drained(1, 2)

    assert pair.drained == [1.5]
    assert [worker.ended for worker in pair.workers] == [True, False]
    assert pair.state("c") is ModelState.READY


async def test_a_drained_one_comes_back_when_it_is_asked_for(pair):
    await drain(pair, 0)
    loading = asyncio.create_task(pair.collect("c", 2))
    await pair.ready(2)
    await loading
    assert ports(pair.manager.picture.value) == [7002, 7001]


async def test_without_its_last_worker_a_model_is_unloaded(pair):
    await drain(pair, 0)
    assert await drain(pair, 1) == Drained(1, 2)
    assert pair.state("c") is ModelState.UNLOADED
    assert pair.budget.free_bytes == 100


async def test_all_that_leave_for_good_leave_together(pair):
    pair.drain_gate.clear()
    draining = drain(pair)
    await pair.until(lambda picture: not picture.endpoints)
    pair.drain_gate.set()
    assert await draining == Drained(2, 4)
    assert pair.state("c") is ModelState.UNLOADED


async def test_each_is_replaced_before_the_next_one_leaves(pair):
    draining = drain(pair, restart=True)
    await pair.until(lambda picture: ports(picture) == [7001])
    await pair.ready(2)
    await pair.until(lambda picture: ports(picture) == [7002])
    assert not draining.done()
    await pair.ready(3)
    assert await draining == Drained(2, 4)
    assert ports(pair.manager.picture.value) == [7002, 7003]
    assert [each.restart_count for each in pair.manager.view("c").replicas] == [1, 1]


async def test_a_caller_that_leaves_stops_nothing(pair):
    pair.drain_gate.clear()
    draining = drain(pair, 0, restart=True)
    await pair.until(lambda picture: ports(picture) == [7001])
    draining.cancel()
    await asyncio.gather(draining, return_exceptions=True)
    pair.drain_gate.set()
    await pair.ready(2)
    await pair.until(lambda picture: ports(picture) == [7002, 7001])


async def test_every_model_is_drained_where_none_is_named(pair):
    pair.needs["b"] = MemoryNeed(10)
    await pair.load("b")
    assert await drain(pair, model=None) == Drained(3, 6)
    assert not pair.manager.picture.value.leaving
    assert pair.state("b") is pair.state("c") is ModelState.UNLOADED


@pytest.mark.parametrize(("model", "index"), [("c", 7), ("a", None)])
async def test_what_is_not_there_is_not_drained(pair, model, index):
    assert await drain(pair, index, model=model) == Drained()
    assert len(pair.manager.picture.value.endpoints) == 2


async def test_a_host_that_shuts_down_says_so(pair):
    await pair.manager.shut_down(0)
    assert pair.manager.picture.value.leaving
