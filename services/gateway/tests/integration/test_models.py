import asyncio

import pytest
from fake_engine import FakeEngine
from fake_worker import FakeWorker
from gateway_client import ADMIN_KEY, announced, failure_of, metric, until

from caravan.model.v1 import model_pb2
from caravan.model.v1 import model_service_pb2 as model_pb


def _replica(state, restart_count=0):
    return model_pb2.Replica(
        state=model_pb2.ReplicaState.Value(f"REPLICA_STATE_{state}"), restart_count=restart_count
    )


@pytest.mark.parametrize(
    ("state", "replicas", "code", "reason"),
    [
        ("UNLOADED", (), "FAILED_PRECONDITION", "MODEL_NOT_LOADED"),
        ("LOADING", (_replica("STARTING"),), "UNAVAILABLE", "MODEL_LOADING"),
        ("READY", (), "UNAVAILABLE", "MODEL_LOADING"),
        ("DRAINING", (_replica("DRAINING"),), "UNAVAILABLE", "DRAINING"),
        ("FAILED", (_replica("FAILED", 3),), "FAILED_PRECONDITION", "MODEL_LOAD_FAILED"),
        ("LOADING", (_replica("RESTARTING", 1),), "UNAVAILABLE", "WORKER_DIED"),
        ("LOADING", (_replica("STARTING", 1),), "UNAVAILABLE", "WORKER_DIED"),
    ],
)
async def test_a_model_without_workers_is_refused_by_its_state(
    engine, start_gateway, client_of, state, replicas, code, reason
):
    engine.endpoints.clear()
    engine.set_model("tiny", state, aliases=("bundled",), replicas=replicas)
    client = client_of(await start_gateway(failover={"arrival_timeout_s": 0}))

    for call in (client.generate(model="bundled"), client.stream()):
        actual, details = await failure_of(call)
        assert (actual, details.reason) == (code, reason)
        assert details.metadata == {"model": "tiny"}
        assert (details.retry_after_s is not None) == (code == "UNAVAILABLE")


async def test_a_call_waits_for_a_worker_that_is_restarted(engine, gateway, client, worker):
    endpoints = dict(engine.endpoints)
    engine.endpoints.clear()
    engine.set_model("tiny", "LOADING", replicas=(_replica("RESTARTING", 1),))
    await announced(engine, gateway)
    answer = asyncio.ensure_future(client.generate())
    waiting = "caravan_gateway_calls_without_worker"
    async with asyncio.timeout(20):
        while await metric(gateway, waiting) != 1:
            await asyncio.sleep(0.02)

    engine.endpoints.update(endpoints)
    engine.set_model("tiny")
    engine.announce()

    assert (await answer).choices
    assert await metric(gateway, waiting) == 0


async def test_a_call_that_waits_for_a_worker_ends_with_its_deadline(engine, gateway, client):
    engine.endpoints.clear()
    engine.set_model("tiny", "LOADING", replicas=(_replica("RESTARTING", 1),))
    await announced(engine, gateway)
    code, _ = await failure_of(client.generate(timeout=0.3))
    assert code == "DEADLINE_EXCEEDED"


async def test_an_unknown_model_is_not_found(client):
    for call in (client.generate(model="missing"), client.stream(model="missing")):
        code, details = await failure_of(call)
        assert (code, details.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
        assert details.metadata == {"model": "missing"}


async def test_an_unknown_model_is_not_judged_before_the_engine_was_heard(
    engine, start_gateway, client_of
):
    await engine.stop()
    client = client_of(await start_gateway(wait=False))

    code, details = await failure_of(client.generate(model="missing"))

    assert (code, details.reason) == ("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE")
    assert details.metadata == {"service": "engine"}


async def test_calls_work_again_after_the_engine_came_back(
    start_gateway, client_of, engine, worker
):
    gateway = await start_gateway(failover={"timeout_s": 0.2, "arrival_timeout_s": 0})
    client = client_of(gateway)
    await client.generate()
    await engine.stop()
    await worker.stop()
    await until(lambda: not gateway.is_ready, "the loss")
    code, details = await failure_of(client.generate())
    assert (code, details.reason) == ("UNAVAILABLE", "WORKER_DIED")
    code, details = await failure_of(_get(client, "tiny"))
    assert (code, details.reason) == ("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE")

    await worker.start()
    engine.endpoints.clear()
    engine.set_endpoint("worker-2", worker.address)
    await engine.start()
    await until(lambda: gateway.is_ready, "the news")

    await client.generate()


async def test_several_hosts_are_watched_and_used(engine, home, start_gateway, client_of, worker):
    second_worker, second = FakeWorker(home), FakeEngine(home)
    await second_worker.start()
    second.set_model("tiny", aliases=("bundled",))
    second.set_model("other")
    second.set_endpoint("worker-b", second_worker.address)
    second.set_endpoint("worker-c", second_worker.address, model="other")
    await second.start()
    addresses = (engine.address, second.address)
    app = await start_gateway(engine={"addresses": addresses}, wait=False)
    client, admin = client_of(app), client_of(app, ADMIN_KEY)
    try:
        async with asyncio.timeout(10):
            while not (worker.runs and second_worker.runs):
                await _ignoring_failures(client.generate())
        await client.generate(model="other")
        assert (await _get(admin, "other")).model.name == "other"

        await engine.stop()
        await worker.stop()
        for _ in range(5):
            await _eventually(lambda: client.generate())
    finally:
        await second.stop()
        await second_worker.stop()


@pytest.fixture
async def two_hosts(engine, home, start_gateway, client_of):
    """An administrator's client of a gateway with two hosts, the second of which it gets, too."""
    second = FakeEngine(home)
    await second.start()
    app = await start_gateway(engine={"addresses": (engine.address, second.address)})
    yield client_of(app, ADMIN_KEY), second, app
    await second.stop()


async def _hears(app, num_hosts):
    async with asyncio.timeout(10):
        while await metric(app, "caravan_gateway_engine_hosts_connected") != num_hosts:
            await asyncio.sleep(0.02)


async def test_the_models_of_all_hosts_are_listed_as_one(two_hosts, engine):
    admin, second, app = two_hosts
    replica = model_pb2.Replica(process_id=7)
    engine.set_model("tiny", "UNLOADED", aliases=("bundled",))
    second.set_model("tiny", "READY", aliases=("small",), replicas=[replica, replica])
    second.set_model("other", "UNLOADED")
    engine.announce()
    second.announce()
    await _hears(app, 2)

    async with asyncio.timeout(10):
        while len(models := (await _list(admin)).models) < 2 or not models[1].replicas:
            await asyncio.sleep(0.02)
    assert [model.name for model in models] == ["other", "tiny"]
    tiny = models[1]
    assert tiny.state == model_pb2.MODEL_STATE_READY
    assert set(tiny.aliases) == {"bundled", "small"}
    assert [one.index for one in tiny.replicas] == [0, 1]
    for name in ("tiny", "bundled", "small"):
        assert (await _get(admin, name)).model == tiny

    await second.stop()
    await _hears(app, 1)
    (left,) = (await _list(admin)).models
    assert (left.name, left.state) == ("tiny", model_pb2.MODEL_STATE_UNLOADED)
    code, details = await failure_of(_get(admin, "other"))
    assert (code, details.reason) == ("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE")
    code, details = await failure_of(_get(admin, "missing"))
    assert (code, details.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")


async def test_the_common_list_comes_in_pages(two_hosts):
    admin, second, app = two_hosts
    second.set_model("a")
    second.set_model("z")
    second.announce()
    await _hears(app, 2)
    async with asyncio.timeout(10):
        while len((await _list(admin)).models) < 3:
            await asyncio.sleep(0.02)

    first = await _list(admin, page_size=2)
    rest = await _list(admin, page_size=2, page_token=first.next_page_token)
    assert [model.name for model in (*first.models, *rest.models)] == ["a", "tiny", "z"]
    assert not rest.next_page_token
    for fields, field in (({"page_size": 1001}, "page_size"), ({"page_token": "?"}, "page_token")):
        code, details = await failure_of(_list(admin, **fields))
        assert (code, details.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
        assert details.field_violations[0].field == field


async def _ignoring_failures(call):
    try:
        await failure_of(call)
    except AssertionError:
        return True
    return False


async def _eventually(make):
    async with asyncio.timeout(10):
        while not await _ignoring_failures(make()):
            await asyncio.sleep(0.02)


def _get(client, model):
    return client.models.GetModel(
        model_pb.GetModelRequest(model=model), metadata=client.metadata, timeout=10
    )


def _list(client, **fields):
    return client.models.ListModels(
        model_pb.ListModelsRequest(**fields), metadata=client.metadata, timeout=10
    )
