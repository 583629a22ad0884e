"""The numbers of workers reach a telemetry service, also after it was away."""

import asyncio

import pytest

from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan.telemetry.v1 import ingest_service_pb2 as ingest_pb
from caravan_engine.clients.telemetry import TelemetryPush
from caravan_rpckit.server import RpcServer
from caravan_rpckit.tls import TlsIdentity
from caravan_testkit.network import free_port

INGEST = ingest_pb.DESCRIPTOR.services_by_name["IngestService"]


class Ingest:
    """Keeps what it is sent."""

    def __init__(self):
        self.received = asyncio.Queue()

    async def StreamWorkerStats(self, requests, _call):
        async for request in requests:
            self.received.put_nowait(request)
        return ingest_pb.StreamWorkerStatsResponse()

    async def IngestUsage(self, _request, _call):
        return ingest_pb.IngestUsageResponse()


@pytest.fixture
async def telemetry(certified_home):
    """Starts telemetry services on one port, one after the other."""
    address = f"127.0.0.1:{free_port()}"
    servers = []

    async def start():
        ingest = Ingest()
        server = RpcServer(address, tls=TlsIdentity.in_home(certified_home, "telemetry"))
        server.add(ingest, INGEST, peers=("engine",))
        await server.start()
        servers.append(server)
        return server, ingest

    yield address, start
    for server in servers:
        await server.stop(0)


@pytest.fixture
async def push(telemetry, certified_home):
    address, _ = telemetry
    workers = [stats_pb.WorkerStats(worker_id="w", model="tiny")]
    pushing = TelemetryPush(
        address,
        TlsIdentity.in_home(certified_home, "engine"),
        host_id="h",
        latest=lambda: workers,
    )
    task = asyncio.create_task(pushing.run())
    yield task
    task.cancel()
    await asyncio.wait({task})


async def test_numbers_arrive_again_and_again(telemetry, push):
    _, start = telemetry
    _, ingest = await start()
    async with asyncio.timeout(20):
        first, second = [await ingest.received.get() for _ in range(2)]

    assert first == second
    assert (first.host_id, first.workers[0].worker_id) == ("h", "w")


async def test_a_telemetry_that_was_away_gets_numbers_when_it_is_back(telemetry, push):
    _, start = telemetry
    async with asyncio.timeout(40):
        server, ingest = await start()
        await ingest.received.get()
        await server.stop(0)
        _, ingest = await start()
        assert (await ingest.received.get()).host_id == "h"
    assert not push.done()
