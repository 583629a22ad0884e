"""Orders about the pages that workers store."""

import pytest
from fake_worker import FakeWorker
from gateway_client import failure_of
from test_models import _replica

from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan_rpckit.errors import Reason


@pytest.fixture
async def second(home, engine):
    """A worker of another model."""
    worker = FakeWorker(home)
    await worker.start()
    engine.set_model("other", aliases=("alias",))
    engine.set_endpoint("other#0", worker.address, model="other")
    yield worker
    await worker.stop()


def drop(client, **fields):
    request = gateway_pb.DropPagesRequest(**{"tenant": "acme", **fields})
    return client.gateway.DropPages(request, metadata=client.metadata, timeout=10)


def budget(client, **fields):
    request = gateway_pb.SetPageBudgetsRequest(**fields)
    return client.gateway.SetPageBudgets(request, metadata=client.metadata, timeout=10)


async def test_every_worker_of_every_model_drops_a_tenants_pages(second, worker, admin):
    answer = await drop(admin)
    assert (answer.dropped_page_count, answer.worker_count) == (6, 2)
    assert [(each.model, each.tenant) for each in worker.orders] == [("tiny", "acme")]
    assert [(each.model, each.tenant) for each in second.orders] == [("other", "acme")]


async def test_only_the_named_model_drops_them(second, worker, admin):
    answer = await drop(admin, model="alias")
    assert answer.worker_count == 1
    assert not worker.orders
    assert second.orders[0].model == "other"


async def test_nothing_is_dropped_while_a_worker_is_about_to_come_back(
    engine, second, worker, start_gateway, client_of
):
    engine.set_model("tiny", replicas=(_replica("READY"), _replica("RESTARTING", 1)))
    client = client_of(await start_gateway(), "cvn_admin_secret")
    code, details = await failure_of(drop(client))
    assert (code, details.reason) == ("UNAVAILABLE", "WORKER_DIED")
    assert not worker.orders


async def test_a_worker_that_refuses_is_told_and_the_others_have_done_it(second, worker, admin):
    worker.refusals.append(Reason.DRAINING)
    code, details = await failure_of(drop(admin))
    assert (code, details.reason) == ("UNAVAILABLE", "DRAINING")
    assert second.orders


@pytest.mark.parametrize("tenant", ["", "x" * 256])
async def test_a_tenant_is_named(worker, admin, tenant):
    code, details = await failure_of(drop(admin, tenant=tenant))
    assert (code, details.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert not worker.orders


async def test_an_unknown_model_has_no_pages(admin):
    for call in (drop(admin, model="missing"), budget(admin, model="missing", host_bytes=1)):
        code, _ = await failure_of(call)
        assert code == "NOT_FOUND"


def checkpoints(client, **fields):
    request = gateway_pb.ListCheckpointsRequest(**fields)
    return client.gateway.ListCheckpoints(request, metadata=client.metadata, timeout=10)


def prune(client, **fields):
    request = gateway_pb.PruneCheckpointsRequest(**fields)
    return client.gateway.PruneCheckpoints(request, metadata=client.metadata, timeout=10)


async def test_checkpoints_of_all_workers_are_told_by_model(second, worker, admin):
    answer = await checkpoints(admin)
    assert [(each.model, each.page_count) for each in answer.workers] == [("other", 3), ("tiny", 3)]
    answer = await checkpoints(admin, model="alias")
    assert [each.model for each in answer.workers] == ["other"]


async def test_checkpoints_are_pruned_by_all_workers_or_those_of_a_model(second, worker, admin):
    answer = await prune(admin)
    counts = (answer.dropped_request_count, answer.dropped_page_count, answer.worker_count)
    assert counts == (2, 6, 2)
    assert (await prune(admin, model="tiny")).worker_count == 1
    assert [each.model for each in second.orders] == ["other"]


async def test_a_worker_that_cannot_tell_or_prune_is_named(worker, admin):
    for call in (checkpoints, prune):
        worker.refusals.append(Reason.DRAINING)
        code, details = await failure_of(call(admin))
        assert (code, details.reason) == ("UNAVAILABLE", "DRAINING")


async def test_budgets_go_to_the_workers_of_the_model(second, worker, admin):
    answer = await budget(admin, model="alias", host_bytes=0)
    assert answer.worker_count == 1
    assert not worker.orders
    (order,) = second.orders
    assert (order.model, order.host_bytes) == ("other", 0)
    assert order.HasField("host_bytes")
    assert not order.HasField("disk_bytes")
