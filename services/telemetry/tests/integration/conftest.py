import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc.aio
import pytest

from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan.telemetry.v1 import ingest_service_pb2 as ingest_pb
from caravan.telemetry.v1 import ingest_service_pb2_grpc as ingest_grpc
from caravan.telemetry.v1 import usage_pb2 as usage_pb
from caravan_rpckit.certificates import ensure_certificates
from caravan_rpckit.channel import open_channel
from caravan_rpckit.tls import TlsIdentity
from caravan_telemetry.app import TelemetryApp
from caravan_telemetry.config import ServerSettings, TelemetrySettings


@pytest.fixture
def home(caravan_home: Path) -> Path:
    ensure_certificates(caravan_home)
    return caravan_home


@pytest.fixture
def settings(home) -> TelemetrySettings:
    server = ServerSettings(address="127.0.0.1:0", ops_address="127.0.0.1:0", drain_timeout_s=2)
    return TelemetrySettings(home=home, server=server)


@pytest.fixture
async def app(settings) -> AsyncIterator[TelemetryApp]:
    app = TelemetryApp(settings)
    try:
        await app.start()
        yield app
    finally:
        await app.stop()


@pytest.fixture
async def channel_as(app, home) -> AsyncIterator[Callable[[str], grpc.aio.Channel]]:
    channels = []

    def connect(service: str) -> grpc.aio.Channel:
        identity = TlsIdentity.in_home(home, service)
        channels.append(
            open_channel(f"127.0.0.1:{app.rpc_port}", tls=identity, server_name="telemetry")
        )
        return channels[-1]

    yield connect
    for channel in channels:
        await channel.close()


@pytest.fixture
def gateway(channel_as) -> ingest_grpc.IngestServiceStub:
    return ingest_grpc.IngestServiceStub(channel_as("gateway"))


@pytest.fixture
def engine(channel_as) -> ingest_grpc.IngestServiceStub:
    return ingest_grpc.IngestServiceStub(channel_as("engine"))


@pytest.fixture
def batch() -> Callable[..., ingest_pb.IngestUsageRequest]:
    def make(*ids: str, **changes: object) -> ingest_pb.IngestUsageRequest:
        return ingest_pb.IngestUsageRequest(records=[_record(i, changes) for i in ids])

    return make


def _record(record_id: str, changes: dict[str, object]) -> usage_pb.UsageRecord:
    record = usage_pb.UsageRecord(
        id=record_id,
        request_id=f"request-of-{record_id}",
        tenant="default",
        principal="alice",
        method="caravan.inference.v1.InferenceService/StreamGenerate",
        model="bundled",
        finish_reasons=["length"],
        input_tokens=10,
        cached_tokens=4,
        output_tokens=32,
        duration_ms=120.5,
        labels={"team": "search"},
    )
    record.start_time.GetCurrentTime()
    for name, value in changes.items():
        setattr(record, name, value)
    return record


@pytest.fixture
def report() -> Callable[..., ingest_pb.StreamWorkerStatsRequest]:
    def make(*workers: stats_pb.WorkerStats, host: str = "host-1"):
        return ingest_pb.StreamWorkerStatsRequest(host_id=host, workers=workers)

    return make


@pytest.fixture
def worker() -> Callable[..., stats_pb.WorkerStats]:
    def make(worker_id: str = "w1", model: str = "bundled", **numbers: object):
        return stats_pb.WorkerStats(worker_id=worker_id, model=model, **numbers)

    return make


@pytest.fixture
def scrape(app) -> Callable[..., object]:
    """Reads `/metrics` and returns its lines."""

    async def read(path: str = "/metrics") -> list[str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", app.ops_port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer.decode().splitlines()

    return read
