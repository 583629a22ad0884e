"""The service as a process of its own: crashes, refusals to start, a disk that is full."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import grpc.aio
import pytest

from caravan.telemetry.v1 import ingest_service_pb2_grpc as ingest_grpc
from caravan_rpckit.channel import open_channel
from caravan_rpckit.details import error_details
from caravan_rpckit.tls import TlsIdentity
from caravan_testkit.network import free_port
from caravan_testkit.waiting import wait_until


class Process:
    """`python -m caravan_telemetry` on ports of its own; keeps them over a restart."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.rpc_port, self.ops_port = free_port(), free_port()
        self.popen: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.popen = subprocess.Popen(
            [
                *(sys.executable, "-m", "caravan_telemetry"),
                *("--server.address", f"127.0.0.1:{self.rpc_port}"),
                *("--server.ops-address", f"127.0.0.1:{self.ops_port}"),
            ],
            env={**os.environ, "CARAVAN_HOME": str(self.home)},
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_and_wait(self) -> None:
        self.start()
        wait_until(self.is_ready, timeout_s=20, what="readiness")

    def is_ready(self) -> bool:
        try:
            return bool(self._read("/health/ready"))
        except urllib.error.URLError:
            return False

    def wait_for_metric(self, line: str) -> None:
        wait_until(lambda: line in self._read("/metrics").splitlines(), timeout_s=10, what=line)

    def _read(self, path: str) -> str:
        url = f"http://127.0.0.1:{self.ops_port}{path}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.read().decode()

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Sends a signal; returns the exit code and what was written to stderr."""
        self.popen.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        _, errors = self.popen.communicate(timeout=20)
        return self.popen.returncode, errors

    def stop(self) -> None:
        if self.popen is not None and self.popen.returncode is None:
            self.popen.kill()
            self.popen.communicate(timeout=20)


@pytest.fixture
def process(home):
    process = Process(home)
    yield process
    process.stop()


@pytest.fixture
async def stub(process, home):
    identity = TlsIdentity.in_home(home, "gateway")
    address = f"127.0.0.1:{process.rpc_port}"
    async with open_channel(address, tls=identity, server_name="telemetry") as channel:
        yield ingest_grpc.IngestServiceStub(channel)


async def test_acknowledged_records_survive_kill_9_and_count_once(process, stub, batch):
    process.start_and_wait()
    acknowledged = []

    async def deliver() -> None:
        for number in range(10_000):
            request = batch(*(f"b{number}-{n}" for n in range(20)))
            answer = await stub.IngestUsage(request, timeout=10)
            assert answer.stored_count == 20
            acknowledged.append(request)

    delivery = asyncio.ensure_future(deliver())
    while len(acknowledged) < 20:
        await asyncio.wait({delivery}, timeout=0.01)
    process.end(signal.SIGKILL)
    with pytest.raises(grpc.aio.AioRpcError):
        await delivery
    process.start_and_wait()

    for request in acknowledged:
        answer = await stub.IngestUsage(request, timeout=10, wait_for_ready=True)
        assert (answer.stored_count, answer.duplicate_count) == (0, 20)


async def test_a_disk_without_room_is_unavailable_until_there_is_room(process, stub, batch):
    process.start_and_wait()
    await stub.IngestUsage(batch("before"), timeout=10)
    unlimited = resource.RLIM_INFINITY
    journal = (process.home / "telemetry" / "telemetry.db-wal").stat().st_size
    resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, (journal, unlimited))

    request = batch(*(f"r{n}" for n in range(500)))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.IngestUsage(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    details = error_details(caught.value)
    assert details.reason == "DEPENDENCY_UNAVAILABLE"
    assert details.retry_after_s is not None

    resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, (unlimited, unlimited))
    answer = await stub.IngestUsage(request, timeout=10)
    assert answer.stored_count == 500
    assert (await stub.IngestUsage(batch("before"), timeout=10)).duplicate_count == 1
    code, errors = process.end(signal.SIGTERM)
    assert code == 0
    assert "telemetry database cannot store" in errors
    assert "alice" not in errors


async def test_sigterm_ends_with_code_0_although_a_host_streams(process, home, worker, report):
    process.start_and_wait()
    identity = TlsIdentity.in_home(home, "engine")
    address = f"127.0.0.1:{process.rpc_port}"
    async with open_channel(address, tls=identity, server_name="telemetry") as channel:
        call = ingest_grpc.IngestServiceStub(channel).StreamWorkerStats()
        await call.write(report(worker()))
        await asyncio.to_thread(process.wait_for_metric, "caravan_telemetry_live_hosts 1.0")
        code, errors = await asyncio.to_thread(process.end, signal.SIGTERM)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    assert code == 0
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "Traceback" not in errors


def test_a_second_instance_is_refused_in_one_clear_line(process, home):
    process.start_and_wait()
    second = Process(home)
    second.start()
    code, errors = second.wait()
    assert code == 3
    assert "DATA_DIRECTORY_IN_USE" in errors.splitlines()[-1]
    assert str(process.popen.pid) in errors.splitlines()[-1]
    assert process.is_ready()


def test_a_taken_port_is_refused_in_one_clear_line(process, tmp_path, home):
    process.start_and_wait()
    other = tmp_path / "other"
    other.mkdir()
    (other / "certs").symlink_to(home / "certs")
    second = Process(other)
    second.rpc_port = process.rpc_port
    second.start()
    code, errors = second.wait()
    assert code == 3
    assert "ADDRESS_IN_USE" in errors.splitlines()[-1]


def test_wrong_settings_are_refused_all_at_once(home):
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "caravan_telemetry", "--usage.retention-days", "-1"),
            *("--server.address", "nonsense"),
        ],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.returncode == 2
    assert "usage.retention_days" in ended.stderr
    assert "server.address" in ended.stderr
