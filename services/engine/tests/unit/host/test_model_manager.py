import asyncio
from dataclasses import replace

import pytest
from host_world import DETAILS

from caravan_engine.control.events import (
    Failed,
    LoadPhase,
    Progress,
    Ready,
)
from caravan_engine.domain.errors import (
    ModelFileInvalidError,
    ModelLoadFailedError,
    ModelTooLargeError,
)
from caravan_engine.host.errors import (
    HostDrainingError,
    LoadAbandonedError,
    UnknownModelError,
)
from caravan_engine.host.models import ModelState
from caravan_engine.host.supervisor import ReplicaState
from caravan_rpckit.errors import Reason


async def test_all_models_are_listed_by_name_with_their_state(world):
    models = await world.manager.list_models()

    assert [model.name for model in models] == ["a", "b", "broken", "c"]
    assert models[0].aliases == ("first",)
    assert models[0].state is ModelState.UNLOADED
    assert (models[2].state, models[2].detail) == (ModelState.FAILED, "the file does not exist")


async def test_an_unknown_model_is_named_in_the_error(world):
    with pytest.raises(UnknownModelError) as error:
        await world.manager.get_model("nope")

    assert error.value.metadata == {"model": "nope"}


async def test_loading_goes_through_its_phases_to_ready(world):
    task = asyncio.create_task(world.collect("first"))
    worker = await world.worker(0)
    worker.sent.put_nowait(Progress(phase=LoadPhase.WARMING_UP, fraction=0.0))
    worker.sent.put_nowait(Ready(port=7000, details=DETAILS))
    steps = await task

    phases = list(dict.fromkeys(step.phase for step in steps))
    assert phases[-1] is LoadPhase.READY
    assert phases == sorted(phases, key=list(LoadPhase).index)
    assert (steps[-1].needed_bytes, steps[-1].budget_bytes) == (60, 100)
    view = world.manager.view("a")
    assert (view.state, view.digest, view.details) == (ModelState.READY, "d" * 64, DETAILS)


async def test_a_ready_model_is_an_endpoint(world):
    await world.load("a")

    (endpoint,) = world.manager.picture.value.endpoints
    assert (endpoint.model, endpoint.port, endpoint.digest) == ("a", 7000, "d" * 64)


async def test_callers_that_load_the_same_model_share_one_load(world):
    tasks = [asyncio.create_task(world.collect("a")) for _ in range(5)]
    (await world.worker(0)).sent.put_nowait(Ready(port=7000, details=DETAILS))

    assert {steps[-1].phase for steps in await asyncio.gather(*tasks)} == {LoadPhase.READY}
    assert len(world.workers) == 1


async def test_a_caller_that_leaves_does_not_stop_the_load(world):
    task = asyncio.create_task(world.collect("a"))
    worker = await world.worker(0)
    task.cancel()
    await asyncio.wait({task})
    worker.sent.put_nowait(Ready(port=7000, details=DETAILS))

    picture = await world.until(lambda picture: picture.endpoints)
    assert picture.endpoints[0].model == "a"


async def test_loading_a_ready_model_answers_at_once(world):
    await world.load("a")

    assert [step.phase for step in await world.collect("a")] == [LoadPhase.READY]
    assert len(world.workers) == 1


async def test_a_model_over_the_budget_starts_no_worker(world):
    await world.load("a")

    with pytest.raises(ModelTooLargeError) as refused:
        await world.collect("b")

    assert refused.value.metadata == {"needed_bytes": "60", "budget_bytes": "40"}
    assert world.state("b") is ModelState.FAILED
    assert len(world.workers) == 1


async def test_a_worker_is_told_how_much_memory_its_pages_got(world):
    await world.load("a")
    steps = asyncio.create_task(world.collect("c"))
    (await world.worker(1)).sent.put_nowait(Ready(port=7001, details=DETAILS))

    assert (await steps)[-1].needed_bytes == 10 + 15
    assert [order.host_page_bytes for order in world.orders] == [0, 15]


async def test_unloading_makes_room_for_another(world):
    await world.load("a")
    await world.manager.unload("a", 5)
    await world.load("b")

    assert world.state("b") is ModelState.READY


async def test_a_faulty_file_is_refused_before_anything_is_started(world):
    with pytest.raises(ModelFileInvalidError):
        await world.collect("broken")

    assert world.workers == []


async def test_a_worker_that_never_becomes_ready_fails_the_load_with_its_reason(world):
    task = asyncio.create_task(world.collect("a"))
    for index in range(3):
        worker = await world.worker(index)
        worker.sent.put_nowait(Failed(reason=Reason.MODEL_LOAD_FAILED, message="no tensors"))
        worker.sent.put_nowait(None)
    with pytest.raises(ModelLoadFailedError) as failed:
        await task

    assert "no tensors" in failed.value.message
    view = world.manager.view("a")
    assert view.state is ModelState.FAILED
    assert "no tensors" in view.detail
    assert world.budget.free_bytes == 100


async def test_a_failed_model_can_be_loaded_again(world):
    task = asyncio.create_task(world.collect("a"))
    for index in range(3):
        (await world.worker(index)).sent.put_nowait(None)
    with pytest.raises(ModelLoadFailedError):
        await task

    await world.load("a")

    assert world.state("a") is ModelState.READY


async def test_a_dead_worker_leaves_the_picture_until_its_successor_is_ready(world):
    await world.load("a")
    first = world.manager.picture.value.endpoints[0]
    world.workers[0].sent.put_nowait(None)

    picture = await world.until(lambda picture: not picture.endpoints)
    assert picture.models[0].state is ModelState.LOADING

    loading = asyncio.create_task(world.collect("a"))
    (await world.worker(1)).sent.put_nowait(Ready(port=7009, details=DETAILS))
    await loading
    second = world.manager.picture.value.endpoints[0]
    assert (second.port, second.worker_id != first.worker_id) == (7009, True)
    assert world.manager.view("a").replicas[0].restart_count == 1


async def test_a_file_that_was_mended_is_loaded_as_it_is_now(world):
    sound = world.files["a"]
    world.files["a"] = replace(sound, fault="is not a regular file")
    with pytest.raises(ModelFileInvalidError):
        await world.collect("a")
    world.files["a"] = replace(sound, size_bytes=99)

    await world.load("a")

    assert world.manager.view("a").size_bytes == 99


async def test_a_failed_model_whose_file_vanishes_is_no_longer_listed(world):
    with pytest.raises(ModelFileInvalidError):
        await world.collect("broken")
    del world.files["broken"]

    with pytest.raises(UnknownModelError):
        await world.manager.get_model("broken")


async def test_unloading_takes_the_endpoint_away_before_it_drains(world):
    await world.load("a")
    world.drain_gate.clear()
    task = asyncio.create_task(world.manager.unload("a", 7))

    picture = await world.until(lambda picture: not picture.endpoints)
    assert picture.models[0].state is ModelState.DRAINING
    assert not world.workers[0].ended
    world.drain_gate.set()
    view, ended = await task

    assert (view.state, ended, world.drained) == (ModelState.UNLOADED, 2, [7])
    assert world.workers[0].ended


async def test_unloading_what_is_not_loaded_changes_nothing(world):
    view, ended = await world.manager.unload("a", 1)

    assert (view.state, ended) == (ModelState.UNLOADED, 0)


async def test_an_unload_whose_caller_leaves_goes_on_and_the_model_loads_again(world):
    await world.load("a")
    world.drain_gate.clear()
    task = asyncio.create_task(world.manager.unload("a", 7))
    await world.until(lambda picture: not picture.endpoints)
    task.cancel()
    await asyncio.wait({task})
    world.drain_gate.set()
    await world.load("a")

    assert world.state("a") is ModelState.READY
    assert len(world.workers) == 2


async def test_unloading_during_a_load_ends_it_with_an_error_for_who_waits(world):
    world.hash_gate.clear()
    loading = asyncio.create_task(world.collect("a"))
    await world.until(lambda picture: picture.models[0].state is ModelState.LOADING)
    await world.manager.unload("a", 1)

    with pytest.raises(LoadAbandonedError):
        await loading
    assert world.workers == []


async def test_a_file_that_vanishes_stays_listed_only_while_it_is_loaded(world):
    await world.load("a")
    del world.files["a"]
    assert (await world.manager.get_model("a")).state is ModelState.READY

    await world.manager.unload("a", 1)
    with pytest.raises(UnknownModelError):
        await world.manager.get_model("a")


async def test_after_shutdown_nothing_is_loaded(world):
    await world.load("a")
    await world.manager.shut_down(1)

    assert world.workers[0].ended
    with pytest.raises(HostDrainingError):
        await world.collect("a")


async def test_a_model_has_as_many_workers_as_asked_for(world):
    loading = asyncio.create_task(world.collect("c", 3))
    for index in range(2):
        await world.ready(index)
    await world.until(lambda picture: len(picture.endpoints) == 2)
    assert world.state("c") is ModelState.READY  # and takes requests already
    assert not loading.done()
    await world.ready(2)

    assert (await loading)[-1].phase is LoadPhase.READY
    assert [order.replica_index for order in world.orders] == [0, 1, 2]
    assert {order.host_page_bytes for order in world.orders} == {(100 - 30) // 2 // 3}
    assert [each.index for each in world.manager.view("c").replicas] == [0, 1, 2]
    ports = {(end.replica_index, end.port) for end in world.manager.picture.value.endpoints}
    assert ports == {(0, 7000), (1, 7001), (2, 7002)}
    assert world.budget.free_bytes == 100 - 30 - 35


async def test_a_replica_that_dies_leaves_the_model_ready(world):
    loading = asyncio.create_task(world.collect("c", 2))
    first, _ = await world.ready(0), await world.ready(1)
    await loading

    first.sent.put_nowait(None)
    await world.until(lambda picture: len(picture.endpoints) == 1)
    assert world.state("c") is ModelState.READY
    assert (await world.collect("c"))[-1].phase is LoadPhase.READY  # at once

    await world.ready(2)
    picture = await world.until(lambda picture: len(picture.endpoints) == 2)
    assert {end.port for end in picture.endpoints} == {7001, 7002}


async def test_a_model_has_failed_only_when_all_its_workers_have(world):
    loading = asyncio.create_task(world.collect("c", 2))
    await world.ready(0)
    for index in (1, 2, 3):
        (await world.worker(index)).sent.put_nowait(None)
    await loading
    assert world.state("c") is ModelState.READY
    await world.until(lambda _: _states(world) == {ReplicaState.READY, ReplicaState.FAILED})

    again = asyncio.create_task(world.collect("c", 2))  # what was given up is started again
    await world.ready(4)
    assert (await again)[-1].phase is LoadPhase.READY
    assert len(world.manager.picture.value.endpoints) == 2


def _states(world):
    return {each.state for each in world.manager.view("c").replicas}


async def test_workers_are_added_to_a_loaded_model_and_drained_away(world):
    await world.load("c")
    adding = asyncio.create_task(world.collect("c", 3))
    await world.ready(1)
    assert not adding.done()
    await world.ready(2)
    await adding
    pages = [order.host_page_bytes for order in world.orders]
    assert pages == [45, 6, 6]  # what runs keeps its pages, newcomers get half of what is left
    assert world.budget.free_bytes == 100 - 30 - 45 - 12

    world.drain_gate.clear()
    await world.collect("c", 1)
    picture = await world.until(lambda picture: len(picture.endpoints) == 1)
    assert picture.endpoints[0].replica_index == 0
    assert [each.state for each in world.manager.view("c").replicas] == [
        ReplicaState.READY,
        ReplicaState.DRAINING,
        ReplicaState.DRAINING,
    ]
    assert world.budget.free_bytes == 100 - 10 - 45
    world.drain_gate.set()
    await world.until(lambda _: len(world.manager.view("c").replicas) == 1)
    assert [worker.ended for worker in world.workers] == [False, True, True]


async def test_a_replica_that_is_wanted_again_while_it_leaves_comes_back(world):
    loading = asyncio.create_task(world.collect("c", 2))
    await world.ready(0)
    await world.ready(1)
    await loading
    world.drain_gate.clear()
    await world.collect("c", 1)
    await world.until(lambda picture: len(picture.endpoints) == 1)
    await world.collect("c", 2)
    world.drain_gate.set()
    await world.ready(2)
    picture = await world.until(lambda picture: len(picture.endpoints) == 2)
    assert {end.port for end in picture.endpoints} == {7000, 7002}


async def test_more_workers_than_memory_has_room_for_are_refused_and_change_nothing(world):
    await world.load("a")
    with pytest.raises(ModelTooLargeError):
        await world.collect("a", 2)
    assert world.state("a") is ModelState.READY
    assert len(world.manager.picture.value.endpoints) == 1
    assert world.budget.free_bytes == 40


async def test_unloading_ends_every_replica(world):
    loading = asyncio.create_task(world.collect("c", 2))
    await world.ready(0)
    await world.ready(1)
    await loading
    _, ended = await world.manager.unload("c", 1.5)
    assert ended == 4
    assert world.drained == [1.5, 1.5]
    assert all(worker.ended for worker in world.workers)
    assert world.budget.free_bytes == 100
