"""Workers of a model that are drained one by one, replaced, or all at once."""

import asyncio

import pytest

from caravan_engine.control.events import Failed
from caravan_engine.host.models import ModelState
from caravan_engine.host.placement import MemoryNeed
from caravan_engine.host.replica_set import Drained
from caravan_engine.host.supervisor import ReplicaState
from caravan_rpckit.errors import Reason


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
    assert pair.handed_over == [7000]
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
    await pair.ready(2)
    await pair.until(lambda picture: ports(picture) == [7002, 7001])
    assert not draining.done()
    await pair.ready(3)
    assert await draining == Drained(2, 4)
    assert ports(pair.manager.picture.value) == [7002, 7003]
    assert [each.restart_count for each in pair.manager.view("c").replicas] == [1, 1]
    assert [worker.ended for worker in pair.workers] == [True, True, False, False]
    assert pair.handed_over == [7000, 7001]
    assert pair.shared == [
        *[(7000, True), (7002, True), (7002, False)],
        *[(7001, True), (7003, True), (7003, False)],
    ]


async def test_there_is_a_worker_at_any_moment_of_a_restart(pair):
    pair.drain_gate.clear()
    draining = drain(pair, 0, restart=True)
    await pair.worker(2)
    assert ports(pair.manager.picture.value) == [7000, 7001]
    await pair.ready(2)
    await pair.until(lambda picture: ports(picture) == [7002, 7001])
    assert not pair.workers[0].ended  # it still drains
    assert pair.budget.free_bytes == 100 - 60 - 30
    pair.drain_gate.set()
    assert await draining == Drained(1, 2)
    assert pair.budget.free_bytes == 100 - 60


async def test_one_whose_successor_never_becomes_ready_stays(pair):
    draining = drain(pair, 0, restart=True)
    for number in (2, 3, 4):
        worker = await pair.worker(number)
        worker.sent.put_nowait(Failed(reason=Reason.MODEL_FILE_INVALID, message="broken"))
        worker.sent.put_nowait(None)
    assert await draining == Drained()
    assert ports(pair.manager.picture.value) == [7000, 7001]
    assert pair.shared == [(7000, True), (7000, False)]
    assert pair.drained == []
    assert pair.budget.free_bytes == 100 - 60
    assert pair.state("c") is ModelState.READY


async def test_a_model_that_is_unloaded_meanwhile_takes_the_successor_along(pair):
    draining = drain(pair, 0, restart=True)
    await pair.worker(2)
    await pair.manager.unload("c", 0)
    assert await draining == Drained()
    assert [worker.ended for worker in pair.workers] == [True, True, True]
    assert pair.budget.free_bytes == 100


async def replaced_one_by_one(world):
    """Whether each worker has ended before the next one starts."""
    draining = drain(world, restart=True)
    await world.until(lambda picture: ports(picture) == [7001])
    await world.ready(2)
    await world.until(lambda picture: ports(picture) == [7002])
    assert not draining.done()
    await world.ready(3)
    assert await draining == Drained(2, 4)
    assert ports(world.manager.picture.value) == [7002, 7003]
    return world.handed_over == [7000, 7001]


async def test_where_memory_is_tight_a_worker_ends_before_the_next_one_starts(pair):
    pair.budget.reserve("another", MemoryNeed(20))
    assert await replaced_one_by_one(pair)


async def test_so_it_does_where_both_would_write_the_same_files(make_world):
    world = make_world(can_overlap=False)
    await world.manager.refresh()
    loading = asyncio.create_task(world.collect("c", 2))
    await world.ready(0)
    await world.ready(1)
    await loading
    assert await replaced_one_by_one(world)


async def test_what_is_unloaded_hands_nothing_over(pair):
    await drain(pair)
    assert pair.handed_over == []


async def test_a_caller_that_leaves_stops_nothing(pair):
    pair.drain_gate.clear()
    draining = drain(pair, 0, restart=True)
    await pair.worker(2)
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
