"""A network that loses every packet: connections stay, nobody says a word.

How soon a cut is noticed is a setting; here a second or two, so that the tests are quick.
"""

import asyncio

import grpc.aio
import pytest
from gateway_client import announced, until
from wire import Wire
from worker_fleet import begun, check_whole, rest_of

from caravan.inference.v1 import embedding_pb2 as embedding_pb

QUICK = {"keepalive_s": 1.0, "keepalive_timeout_s": 0.5}


@pytest.fixture
async def gateway(start_gateway):
    return await start_gateway(failover=QUICK)


async def test_streams_go_on_on_a_replica_that_can_be_reached(client, gateway, fleet, telemetry):
    call, events = await begun(client)
    await fleet.add("w2")
    await announced(fleet.engine, gateway)

    fleet.wires["w1"].freeze()

    async with asyncio.timeout(20):
        check_whole(events + await rest_of(call), 60)
    await until(lambda: telemetry.records, "the record")
    (record,) = telemetry.records.values()
    assert (record.status_code, record.failover_count, record.output_tokens) == (0, 1, 60)


async def test_a_silent_worker_that_can_be_reached_is_not_taken_for_a_lost_one(
    start_gateway, client_of, fleet
):
    """It computes, or the call waits in its queue; it bears being asked as often as is allowed."""
    gateway = await start_gateway(failover={"keepalive_s": 1, "keepalive_timeout_s": 20})
    client = client_of(gateway)
    worker = fleet.workers["w1"]
    worker.hold_after = 5
    call, events = client.stream("60"), []
    while len(events) < 5:
        events.append(await call.read())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):  # the third question too many would end the connection
            await call.read()
    assert len(worker.runs) == 1
    call.cancel()


async def test_a_call_that_nobody_streams_goes_elsewhere(client, gateway, fleet):
    request = embedding_pb.EmbedRequest(model="tiny", inputs=[embedding_pb.EmbedInput(text="hang")])
    call = client.inference.Embed(request, metadata=client.metadata, timeout=30)
    await until(lambda: fleet.workers["w1"].num_live, "the work")
    second = await fleet.add("w2")
    await announced(fleet.engine, gateway)
    fleet.wires["w1"].freeze()
    await until(lambda: second.num_live, "the work again", 20)
    call.cancel()


async def test_new_calls_pass_by_a_worker_that_cannot_be_reached(client, gateway, fleet):
    """Also those that would open the first connection to it."""
    await fleet.add("w2")
    await announced(fleet.engine, gateway)
    fleet.wires["w2"].freeze()
    answers = await asyncio.gather(*(client.generate("3") for _ in range(6)))
    assert all(len(answer.choices[0].token_ids) == 3 for answer in answers)
    assert not fleet.workers["w2"].runs


async def test_the_callers_deadline_holds_in_a_cut(start_gateway, client_of, fleet):
    client = client_of(await start_gateway(failover={"keepalive_s": 60}))
    call, _ = await begun(client, timeout=1.0)
    fleet.wires["w1"].freeze()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rest_of(call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_stream_waits_for_the_network_where_nobody_else_is(client, fleet):
    call, events = await begun(client)
    reading = asyncio.ensure_future(rest_of(call))
    wire = fleet.wires["w1"]
    wire.freeze()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(reading), 3)
    wire.thaw()
    async with asyncio.timeout(20):
        check_whole(events + await reading, 60)


async def test_a_host_that_cannot_be_reached_is_noticed(engine, start_gateway, fleet):
    wire = Wire(engine.port)
    await wire.start()
    gateway = await start_gateway(failover=QUICK, engine={"addresses": (wire.address,)})
    wire.freeze()
    await until(lambda: not gateway.is_ready, "the loss", 20)
    wire.thaw()
    await until(lambda: gateway.is_ready, "its return", 20)
    await wire.cut()
