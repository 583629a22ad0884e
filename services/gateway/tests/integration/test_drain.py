"""Orders about workers that are to be emptied."""

import asyncio

import grpc.aio
import pytest
from fake_engine import FakeEngine
from gateway_client import KEY, failure_of
from test_models import _replica

from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan_rpckit.details import error_details


@pytest.fixture
async def second_host(home):
    """Another engine host, with a replica of the same model."""
    host = FakeEngine(home)
    host.set_model("tiny", replicas=(_replica("READY"),))
    await host.start()
    yield host
    await host.stop()


@pytest.fixture
async def admin(engine, second_host, start_gateway, client_of):
    engine.set_model("tiny", aliases=("bundled",), replicas=(_replica("READY"), _replica("READY")))
    engine.models["tiny"].replicas[1].index = 1
    addresses = (engine.address, second_host.address)
    return client_of(await start_gateway(engine={"addresses": addresses}), "cvn_admin_secret")


def drain(client, **fields):
    request = gateway_pb.DrainWorkersRequest(**fields)
    return client.gateway.DrainWorkers(request, metadata=client.metadata, timeout=10)


async def test_a_models_workers_are_drained_on_every_host(admin, engine, second_host):
    answer = await drain(admin, model="bundled", timeout_ms=1500, restart=True)
    assert (answer.worker_count, answer.unfinished_request_count) == (4, 2)
    for host in (engine, second_host):
        (order,) = host.drains
        assert (order.model, order.timeout_ms, order.restart) == ("tiny", 1500, True)
        assert not order.HasField("replica_index")


async def test_a_replica_is_found_on_its_host(admin, engine, second_host):
    await drain(admin, model="tiny", replica_index=2)
    assert not engine.drains
    (order,) = second_host.drains
    assert order.replica_index == 0
    assert not order.HasField("timeout_ms")


async def test_a_host_is_emptied_of_all_its_models(admin, engine, second_host):
    answer = await drain(admin, engine_address=engine.address)
    assert answer.worker_count == 2
    assert not engine.drains[0].HasField("model")
    assert not second_host.drains


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "model"),
        ({"engine_address": "nowhere:1"}, "engine_address"),
        ({"model": "tiny", "replica_index": 3}, "replica_index"),
    ],
)
async def test_orders_that_name_no_worker_are_refused(admin, engine, fields, field):
    code, details = await failure_of(drain(admin, **fields))
    assert (code, details.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert details.field_violations[0].field == field
    assert not engine.drains


async def test_a_replica_of_another_host_than_named_is_refused(admin, engine):
    order = drain(admin, model="tiny", replica_index=2, engine_address=engine.address)
    _, details = await failure_of(order)
    assert details.field_violations[0].field == "replica_index"


async def test_a_number_without_a_model_is_refused(admin, engine):
    _, details = await failure_of(drain(admin, replica_index=0, engine_address=engine.address))
    assert details.field_violations[0].field == "model"


async def test_nothing_is_drained_while_a_host_is_away(admin, engine, second_host):
    await second_host.stop()

    async def answers():
        try:
            await drain(admin, model="tiny")
        except grpc.aio.AioRpcError as error:
            return error_details(error).reason
        return ""

    async with asyncio.timeout(20):
        while await answers() != "DEPENDENCY_UNAVAILABLE":
            await asyncio.sleep(0.05)
    num_orders = len(engine.drains)
    assert await answers() == "DEPENDENCY_UNAVAILABLE"
    assert len(engine.drains) == num_orders


async def test_whoever_only_runs_models_may_not_drain(gateway, client_of):
    code, _ = await failure_of(drain(client_of(gateway, KEY), model="tiny"))
    assert code == "PERMISSION_DENIED"
