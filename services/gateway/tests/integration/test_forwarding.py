import asyncio

import pytest
from gateway_client import failure_of, until

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.model.v1 import model_pb2 as model_data
from caravan.model.v1 import model_service_pb2 as model_pb
from caravan.policy.v1 import policy_admin_service_pb2 as admin_pb
from caravan_testkit.waiting import wait_until_async


async def test_model_calls_are_answered_by_the_engine(admin):
    listed = await admin.models.ListModels(model_pb.ListModelsRequest(), metadata=admin.metadata)
    assert [model.name for model in listed.models] == ["tiny"]

    phases = [
        step.phase
        async for step in admin.models.LoadModel(
            model_pb.LoadModelRequest(model="tiny"), metadata=admin.metadata
        )
    ]
    assert phases == [model_pb.LOAD_PHASE_LOADING, model_pb.LOAD_PHASE_READY]


async def test_the_engines_refusal_passes_unchanged(admin):
    code, details = await failure_of(
        admin.models.GetModel(model_pb.GetModelRequest(model="no"), metadata=admin.metadata)
    )
    assert (code, details.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")
    assert details.metadata == {"model": "no"}


async def test_leaving_a_load_reaches_the_engine(admin, engine):
    call = admin.models.LoadModel(model_pb.LoadModelRequest(model="slow"), metadata=admin.metadata)
    await anext(aiter(call))
    call.cancel()

    await until(lambda: engine.loads_running == 0, "the end of the load")


async def test_policy_calls_say_who_is_calling_and_pass_nothing_of_the_client_on(admin, policy):
    forged = worker_pb.Caller(principal="root").SerializeToString()
    metadata = (
        *admin.metadata,
        ("x-request-id", "r-1"),
        ("caravan-principal", "root"),
        ("caravan-caller-bin", forged),
    )

    response = await admin.policy.CreateApiKey(
        admin_pb.CreateApiKeyRequest(principal="bob"), metadata=metadata
    )

    assert response.secret == "cvn_new"
    ((request, received, caller),) = policy.forwarded
    assert caller == worker_pb.Caller(tenant="default", principal="admin", request_id="r-1")
    assert request.principal == "bob"
    assert received["x-request-id"] == "r-1"
    assert "caravan-principal" not in received
    assert "authorization" not in received


async def test_policys_refusal_passes_unchanged(admin):
    code, details = await failure_of(
        admin.policy.CreateApiKey(
            admin_pb.CreateApiKeyRequest(principal="nobody"), metadata=admin.metadata
        )
    )
    assert (code, details.reason) == ("NOT_FOUND", "RESOURCE_NOT_FOUND")


@pytest.mark.parametrize("service", ["policy", "engine"])
async def test_a_service_that_is_away_is_named(start_gateway, client_of, policy, engine, service):
    app = await start_gateway()
    admin = client_of(app, "cvn_admin_secret")
    await admin.models.ListModels(model_pb.ListModelsRequest(), metadata=admin.metadata)
    await admin.policy.ListRoles(admin_pb.ListRolesRequest(), metadata=admin.metadata)
    await {"policy": policy, "engine": engine}[service].stop()

    call = {
        "policy": lambda: admin.policy.ListRoles(
            admin_pb.ListRolesRequest(), metadata=admin.metadata
        ),
        "engine": lambda: admin.models.ListModels(
            model_pb.ListModelsRequest(), metadata=admin.metadata
        ),
    }[service]
    code, details = await failure_of(call())

    assert (code, details.reason) == ("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE")
    assert details.metadata == {"service": service}
    assert details.retry_after_s > 0


async def test_the_status_tells_what_the_gateway_depends_on(admin, gateway, telemetry):
    status = await _status(admin)

    assert status.version
    assert status.start_time.seconds > 1_700_000_000
    assert status.serving
    assert [(one.service, one.reachable) for one in status.dependencies] == [
        ("policy", True),
        ("engine", True),
        ("telemetry", True),
    ]
    assert [model.name for model in status.models] == ["tiny"]
    assert status.active_call_count == 1

    await telemetry.stop()
    status = await _status(admin)
    assert status.serving
    telemetry_status = status.dependencies[-1]
    assert not telemetry_status.reachable
    assert telemetry_status.detail


async def _status(admin):
    return await admin.gateway.GetGatewayStatus(
        gateway_pb.GetGatewayStatusRequest(), metadata=admin.metadata, timeout=10
    )


async def test_numbers_of_workers_come_from_their_hosts(admin, engine):
    engine.set_model("tiny", replicas=[model_data.Replica(index=0)])
    engine.announce()
    engine.worker_stats = [stats_pb.WorkerStats(model="tiny", running_count=3)]

    async def heard():
        return [each.running_count for each in (await _numbers(admin)).workers] == [3]

    await wait_until_async(heard, timeout_s=10, what="the numbers")

    engine.says_numbers = False
    numbers = await _numbers(admin)
    assert (list(numbers.workers), len(numbers.missing_hosts)) == ([], 1)

    await engine.stop()
    numbers = await _numbers(admin)
    assert (list(numbers.workers), len(numbers.missing_hosts)) == ([], 1)


async def test_a_host_that_is_lost_while_it_says_its_numbers_is_not_missing(admin, engine):
    engine.set_model("tiny", replicas=[model_data.Replica(index=0)])
    engine.announce()
    engine.worker_stats = [stats_pb.WorkerStats(model="tiny", running_count=3)]
    engine.numbers_ready.clear()
    asked = asyncio.create_task(_numbers(admin))
    await asyncio.wait_for(engine.numbers_asked.wait(), 10)

    engine.may_be_watched = False
    engine.announce()

    async def lost():
        return not (await _status(admin)).dependencies[1].reachable

    await wait_until_async(lost, timeout_s=10, what="the loss")
    engine.numbers_ready.set()
    numbers = await asked
    assert [each.running_count for each in numbers.workers] == [3]
    assert list(numbers.missing_hosts) == []


async def _numbers(admin):
    return await admin.gateway.GetWorkerStats(
        gateway_pb.GetWorkerStatsRequest(), metadata=admin.metadata, timeout=10
    )
