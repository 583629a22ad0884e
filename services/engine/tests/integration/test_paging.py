"""What stays of texts between requests, over the wire and on a real model."""

import grpc
import pytest

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.engine.v1 import worker_service_pb2_grpc as worker_grpc
from caravan_rpckit.channel import open_channel
from caravan_rpckit.tls import TlsIdentity

BUDGET_BYTES = 190 * 528  # two texts and a half, by what a token of the tiny model takes
LEADS = [f"{lead} is where this story begins, and it goes on and on. " * 3 for lead in "ABCDEF"]


def cached_tokens(answers):
    return answers[-1].event.completed.usage.cached_tokens


def output_of(answers):
    return "".join(answer.event.delta.text for answer in answers)


@pytest.mark.parametrize("disk_bytes", [0, 1 << 24], ids=["memory", "disk"])
async def test_a_conversation_goes_on_where_it_was_while_others_were_dropped(
    start_host, view_of, disk_bytes
):
    first_text, *others = LEADS
    host = start_host(
        *("--kv.page-size", "16", "--kv.host-budget-bytes", str(BUDGET_BYTES)),
        *("--kv.disk-budget-bytes", str(disk_bytes)),
    )
    view = await view_of(host)
    first = await view.run(text=first_text, session_id="talk")
    for text in others:
        await view.run(text=text)
    next_turn = first_text + output_of(first) + " And then?"
    second = await view.run(text=next_turn, session_id="talk")
    assert cached_tokens(second) >= first[-1].event.completed.usage.input_tokens
    if not disk_bytes:
        assert cached_tokens(await view.run(text=others[0])) < 16


async def order(view, name, request):
    worker = await view.worker()
    return await getattr(worker, name)(request)


@pytest.mark.parametrize("disk_bytes", [0, 1 << 24], ids=["memory", "disk"])
async def test_a_tenants_pages_are_dropped_and_those_of_others_stay(
    start_host, view_of, disk_bytes
):
    host = start_host(
        *("--kv.page-size", "16", "--kv.host-budget-bytes", str(BUDGET_BYTES)),
        *("--kv.disk-budget-bytes", str(disk_bytes)),
    )
    view = await view_of(host)
    text, *others = LEADS
    for number, tenant in enumerate(["acme", "other"]):
        await view.run(text=others[number], caller={"tenant": tenant})
        await view.run(text=text, caller={"tenant": tenant})
    assert cached_tokens(await view.run(text=text, caller={"tenant": "acme"})) > 16

    request = worker_pb.DropPagesRequest(model="tiny", tenant="acme")
    answer = await order(view, "DropPages", request)

    assert answer.dropped_page_count >= 4
    assert (await order(view, "DropPages", request)).dropped_page_count == 0
    assert cached_tokens(await view.run(text=text, caller={"tenant": "acme"})) == 0
    assert cached_tokens(await view.run(text=text, caller={"tenant": "other"})) > 16
    assert cached_tokens(await view.run(text=text, caller={"tenant": "acme"})) > 16
    (record,) = [
        each
        for each in host.log_records()
        if each.get("tenant") == "acme" and each.get("page_count")
    ]
    assert record["page_count"] == answer.dropped_page_count


async def test_budgets_change_at_run_time_within_the_plan(start_host, view_of):
    host = start_host("--kv.page-size", "16", "--kv.host-budget-bytes", str(BUDGET_BYTES))
    view = await view_of(host)
    await view.run(text=LEADS[0])
    smaller = worker_pb.SetPageBudgetsRequest(model="tiny", host_bytes=0)
    await order(view, "SetPageBudgets", smaller)
    assert cached_tokens(await view.run(text=LEADS[0])) == 0
    again = worker_pb.SetPageBudgetsRequest(model="tiny", host_bytes=BUDGET_BYTES)
    await order(view, "SetPageBudgets", again)
    await view.run(text=LEADS[0])
    assert cached_tokens(await view.run(text=LEADS[0])) > 16
    for fields in ({"host_bytes": BUDGET_BYTES + 1}, {"disk_bytes": 1}, {}):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await order(
                view, "SetPageBudgets", worker_pb.SetPageBudgetsRequest(model="tiny", **fields)
            )
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("peer", ["policy", "telemetry"])
async def test_only_gateways_and_hosts_give_orders_about_pages(shared_host, view_of, peer):
    gateway = await view_of(shared_host)
    address = (await gateway.endpoint()).address
    tls = TlsIdentity.in_home(shared_host.home, peer)
    async with open_channel(address, tls=tls, server_name="engine") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await worker_grpc.WorkerServiceStub(channel).DropPages(
                worker_pb.DropPagesRequest(model="tiny", tenant="default")
            )
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_what_another_tenant_had_computed_changes_neither_work_nor_steps(start_host, view_of):
    view = await view_of(start_host("--kv.page-size", "16"))
    text = LEADS[0]

    async def work_for(tenant):
        before = await view.stats()
        answers = await view.run(text=text, caller={"tenant": tenant})
        after = await view.stats()
        return (
            cached_tokens(answers),
            answers[-1].event.completed.usage.input_tokens,
            after.prefix_hit_tokens_total - before.prefix_hit_tokens_total,
            after.steps_total - before.steps_total,
        )

    when_nobody_had_it = await work_for("first")
    await work_for("acme")
    assert (await work_for("acme"))[0] > 16
    when_others_had_it = await work_for("late")
    assert when_others_had_it == when_nobody_had_it
    assert (when_others_had_it[0], when_others_had_it[2]) == (0, 0)
