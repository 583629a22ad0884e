"""What the gateway adds to a call: a client calls a fake worker directly and through the gateway.

Three processes: the fakes, the gateway, and this client. Rounds alternate; prints JSON with
medians. `python measure_overhead.py [rounds]`. Not a test: times depend on the machine.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

import grpc.aio

sys.path.insert(0, str(Path(__file__).parent.parent / "integration"))

from fake_engine import FakeEngine
from fake_policy import FakePolicy
from fake_telemetry import FakeTelemetry
from fake_worker import FakeWorker
from gateway_client import KEY, Client, request_of

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.engine.v1 import worker_service_pb2_grpc as worker_grpc
from caravan_rpckit.certificates import ensure_certificates
from caravan_rpckit.channel import open_channel
from caravan_rpckit.tls import TlsIdentity
from caravan_testkit.network import free_port
from caravan_testkit.waiting import wait_until_async

NUM_UNARY = 300
NUM_STREAMS = 16
NUM_TOKENS = 200
STEP_S = 0.02


async def serve_fakes(home):
    """The process of the fakes: prints their addresses and waits for its end."""
    policy, worker = FakePolicy(home), FakeWorker(home)
    engine, telemetry = FakeEngine(home), FakeTelemetry(home)
    policy.add_key(KEY)
    paced = FakeWorker(home)
    paced.pause_s = STEP_S
    for server in (policy, worker, paced, engine, telemetry):
        await server.start()
    engine.set_model("tiny")
    engine.set_model("paced")
    engine.set_endpoint("worker-1", worker.address)
    engine.set_endpoint("worker-2", paced.address, model="paced")
    engine.announce()
    servers = (policy, engine, telemetry, worker, paced)
    print(json.dumps([server.address for server in servers]), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for server in servers:
        await server.stop()


async def measure(rounds):
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ensure_certificates(home)
        fakes = await _spawn(stack, __file__, "fakes", str(home), stdin=asyncio.subprocess.PIPE)
        policy, engine, telemetry, worker, paced = json.loads(await fakes.stdout.readline())
        port = free_port()
        await _spawn(
            stack,
            *("-m", "caravan_gateway", "--home", str(home)),
            *("--server.address", f"127.0.0.1:{port}", "--server.ops_address", "127.0.0.1:0"),
            *("--policy.address", policy, "--engine.addresses", f'["{engine}"]'),
            *("--telemetry.address", telemetry, "--log.level", "warning"),
        )
        client = Client(port)
        stack.push_async_callback(client.channel.close)
        await wait_until_async(lambda: _answers(client), timeout_s=30, what="the gateway")
        tls = TlsIdentity.in_home(home, "gateway")
        direct = {}
        for name, address in (("tiny", worker), ("paced", paced)):
            channel = open_channel(address, tls=tls, server_name="engine")
            stack.push_async_callback(channel.close)
            direct[name] = worker_grpc.WorkerServiceStub(channel)
        return await _rounds(rounds, client, direct)


async def _answers(client):
    try:
        await client.generate("1")
    except grpc.aio.AioRpcError:
        return False
    return True


async def _spawn(stack, *arguments, stdin=None):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )

    async def end():
        if process.returncode is None:
            process.terminate()
        await process.wait()

    stack.push_async_callback(end)
    return process


async def _rounds(rounds, client, direct):
    results = []
    for _ in range(rounds):
        results.append(
            {
                "unary_direct_ms": await _unary(lambda: _collect(direct["tiny"], "1")),
                "unary_gateway_ms": await _unary(lambda: client.generate("1")),
                "paced_direct_per_s": await _streams(lambda: _run(direct["paced"], "paced")),
                "paced_gateway_per_s": await _streams(
                    lambda: client.stream(str(NUM_TOKENS), model="paced")
                ),
                "flood_direct_per_s": await _streams(lambda: _run(direct["tiny"], "tiny")),
                "flood_gateway_per_s": await _streams(lambda: client.stream(str(NUM_TOKENS))),
            }
        )
    medians = {
        name: round(statistics.median(result[name] for result in results), 3) for name in results[0]
    }
    return {
        **medians,
        "unary_added_ms": round(medians["unary_gateway_ms"] - medians["unary_direct_ms"], 3),
        "paced_ratio": round(medians["paced_gateway_per_s"] / medians["paced_direct_per_s"], 4),
        "flood_ratio": round(medians["flood_gateway_per_s"] / medians["flood_direct_per_s"], 4),
        "rounds": rounds,
    }


async def _unary(call):
    """Median of a call, one at a time."""
    times = []
    for _ in range(NUM_UNARY):
        began = time.perf_counter()
        await call()
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1000


async def _streams(open_stream):
    """Events per second over streams that run together."""
    began = time.perf_counter()
    counts = await asyncio.gather(*(_count(open_stream()) for _ in range(NUM_STREAMS)))
    return sum(counts) / (time.perf_counter() - began)


async def _count(stream):
    count = 0
    async for _ in stream:
        count += 1
    return count


def _run(stub, model):
    request = worker_pb.RunRequest(request=request_of(str(NUM_TOKENS), model=model))
    return stub.Run(request)


async def _collect(stub, text):
    return [event async for event in stub.Run(worker_pb.RunRequest(request=request_of(text)))]


if __name__ == "__main__":
    if sys.argv[1:2] == ["fakes"]:
        asyncio.run(serve_fakes(Path(sys.argv[2])))
    else:
        rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
        print(json.dumps(asyncio.run(measure(rounds)), indent=2))
