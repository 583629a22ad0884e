"""Nothing may be left of calls that ended in any way."""

import asyncio
import gc
import random

import grpc.aio
from gateway_client import metric

NUM_CALLS = 1_000
NUM_AT_ONCE = 50
IDLE = (
    "caravan_gateway_requests_active",
    "caravan_gateway_worker_calls_active",
)
BOUNDED = {
    "caravan_gateway_credential_cache_entries": 1,
    "caravan_gateway_decision_cache_entries": 1,
    "caravan_gateway_worker_channels": 1,
}


async def test_a_thousand_random_disconnects_leave_nothing_behind(client, gateway, worker, caplog):
    dice = random.Random(7)
    worker.pause_s = 0.01
    await client.generate()
    tasks_before = len(_tasks())
    gate = asyncio.Semaphore(NUM_AT_ONCE)

    await asyncio.gather(*(_leave(client, gate, dice) for _ in range(NUM_CALLS)))

    async with asyncio.timeout(20):
        while worker.num_live or any([await metric(gateway, name) for name in IDLE]):
            await asyncio.sleep(0.05)
        while len(_tasks()) > tasks_before:
            await asyncio.sleep(0.05)
    for name, most in BOUNDED.items():
        assert await metric(gateway, name) <= most
    assert len(worker.runs) > NUM_CALLS / 5
    assert sum(worker.outcomes.values()) == len(worker.runs)
    unexpected = [
        (record.exception, record.method, record.frames[-4:])
        for record in caplog.records
        if record.levelname == "ERROR"
    ]
    assert not unexpected
    gc.collect()
    assert not [one for one in gc.get_objects() if type(one).__name__ == "InferenceCall"]


def _tasks():
    """Tasks of calls; those of the test's own look at metrics come and go."""
    return [task for task in asyncio.all_tasks() if "ops_server" not in repr(task.get_coro())]


async def _leave(client, gate, dice):
    """One call that ends at a random moment in a random way."""
    text = dice.choice(("hang", "5", "200", "refuse", ""))
    delay_s = dice.random() * 0.03
    way = dice.choice(("deadline", "early", "reading"))
    async with gate:
        if way == "deadline":
            call = client.generate(text, timeout=max(0.001, delay_s))
            await asyncio.gather(call, return_exceptions=True)
            return
        call = client.stream(text, timeout=20)
        reading = asyncio.ensure_future(_read(call, 1 if text == "hang" else dice.randrange(1, 4)))
        if way == "early":
            await asyncio.sleep(delay_s)
            call.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _read(call, num_events):
    """Reads some events and leaves."""
    try:
        async for _ in call:
            num_events -= 1
            if not num_events or call.done():
                break
    except grpc.aio.AioRpcError:
        return
    call.cancel()
