import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from caravan.telemetry.v1 import ingest_service_pb2 as ingest_pb
from caravan_rpckit.details import error_details
from caravan_testkit.waiting import wait_until_async

TOKENS = 'llama_tokens_generated_total{model="bundled"}'
RATE = 'llama_tokens_per_second{model="bundled"}'


class Host:
    """One stream that a test feeds."""

    def __init__(self, stub):
        self._queue: asyncio.Queue[ingest_pb.StreamWorkerStatsRequest | None] = asyncio.Queue()
        self.call = stub.StreamWorkerStats(self._requests())

    def send(self, message) -> None:
        self._queue.put_nowait(message)

    def end(self) -> None:
        self._queue.put_nowait(None)

    async def _requests(self) -> AsyncIterator[ingest_pb.StreamWorkerStatsRequest]:
        while (message := await self._queue.get()) is not None:
            yield message


@pytest.fixture
async def connect(engine):
    hosts = []

    def start() -> Host:
        hosts.append(Host(engine))
        return hosts[-1]

    yield start
    for host in hosts:
        host.call.cancel()


@pytest.fixture
def shown(scrape):
    async def wait(name: str, value: float | None) -> None:
        """Waits until a series has a value, or is gone."""
        line = None if value is None else f"{name} {value}"

        async def matches() -> bool:
            lines = await scrape()
            if line is None:
                return not any(one.startswith(name) for one in lines)
            return line in lines

        await wait_until_async(matches, timeout_s=5, what=line or f"no {name}")

    return wait


async def test_a_loaded_model_shows_before_its_first_token(connect, report, worker, shown):
    connect().send(report(worker()))
    await shown(TOKENS, 0.0)
    await shown("llm_active_models", 1.0)


async def test_numbers_follow_the_reports(connect, report, worker, shown):
    host = connect()
    host.send(report(worker(output_tokens_total=5, output_tokens_per_second=2.5)))
    await shown(TOKENS, 5.0)
    await shown(RATE, 2.5)
    host.send(report(worker(output_tokens_total=9, output_tokens_per_second=4)))
    await shown(TOKENS, 9.0)
    await shown(RATE, 4.0)
    await shown("caravan_telemetry_live_hosts", 1.0)


async def test_hosts_are_summed_and_a_worker_that_ended_stays_in_the_sum(
    connect, report, worker, shown
):
    first, second = connect(), connect()
    first.send(report(worker(output_tokens_total=5), host="one"))
    second.send(report(worker(output_tokens_total=7), host="two"))
    await shown(TOKENS, 12.0)
    first.send(report(worker("w2", output_tokens_total=1), host="one"))
    await shown(TOKENS, 13.0)


async def test_the_end_of_a_stream_removes_gauges_and_keeps_counters(
    connect, report, worker, shown
):
    host = connect()
    host.send(report(worker(output_tokens_total=5)))
    await shown(RATE, 0.0)
    host.end()
    assert await host.call == ingest_pb.StreamWorkerStatsResponse()
    await shown(RATE, None)
    await shown(TOKENS, 5.0)
    await shown("llm_active_models", 0.0)


async def test_a_host_that_is_cut_off_loses_its_gauges(connect, report, worker, shown):
    host = connect()
    host.send(report(worker()))
    await shown(RATE, 0.0)
    host.call.cancel()
    await shown(RATE, None)


async def test_a_faulty_report_is_refused_with_its_field(connect, report, worker):
    host = connect()
    host.send(report(worker(model="")))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await host.call
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = error_details(caught.value).field_violations
    assert violation.field == "workers[0].model"


async def test_only_the_engine_may_send_numbers(gateway, report, worker):
    host = Host(gateway)
    host.send(report(worker()))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await host.call
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert error_details(caught.value).reason == "PEER_NOT_ALLOWED"


async def test_draining_sends_hosts_away_and_ends(app, connect, report, worker, shown, scrape):
    host = connect()
    host.send(report(worker()))
    await shown(RATE, 0.0)
    await app.drain()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await host.call
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert error_details(caught.value).reason == "DRAINING"
    assert (await scrape("/health/ready"))[0].startswith("HTTP/1.1 503")
    assert (await scrape("/health/live"))[0].startswith("HTTP/1.1 200")
