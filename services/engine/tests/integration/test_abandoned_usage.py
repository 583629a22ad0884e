"""Records of generations that nobody came back for reach a telemetry service."""

import asyncio

import grpc
import pytest

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.telemetry.v1 import usage_pb2 as usage_pb
from caravan_engine.clients.abandoned_usage import AbandonedUsage
from caravan_engine.domain.errors import DeadlineExceededError
from caravan_engine.domain.events import Completed, Delta, Finished, FinishReason, Started, Timings
from caravan_engine.runtime.retained_streams import (
    RetainedStreams,
    RetentionLimits,
    StreamName,
    StreamOrigin,
)
from caravan_engine.runtime.stream_accounts import NoAccounts
from caravan_rpckit.channel import open_channel
from caravan_rpckit.tls import TlsIdentity

STARTED = Started(5, 2)
NOW_S = 1_000_002.5


class Source:
    """Plays events, and errors."""

    def __init__(self, *script):
        self._script = list(script)

    def close(self):
        pass

    def __aiter__(self):
        return self

    async def __anext__(self):
        if not self._script:
            raise StopAsyncIteration
        step = self._script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


class Owed:
    """Notes what is kept beyond the process."""

    def __init__(self):
        self.records = {}

    def owed(self, usage_id, record):
        self.records[usage_id] = record

    def settled(self, usage_id):
        self.records.pop(usage_id, None)


@pytest.fixture
async def usage(ingest, certified_home):
    tls = TlsIdentity.in_home(certified_home, "engine")
    channel = open_channel(ingest.address, tls=tls, server_name="telemetry")
    usage = AbandonedUsage(channel, Owed(), now_s=lambda: NOW_S)
    task = asyncio.create_task(usage.run())
    yield usage
    task.cancel()
    await asyncio.wait({task})
    await channel.close()


async def abandoned(usage, *script, usage_id="u1"):
    """A generation that played its script and was given up."""
    streams = RetainedStreams(
        RetentionLimits(),
        on_abandoned=usage.abandoned,
        clock=lambda: 0.0,
        call_later=asyncio.get_running_loop().call_later,
        accounts=NoAccounts(),
    )
    begun = usage_pb.UsageRecord(id=usage_id, request_id="r1", tenant="t", principal="p")
    begun.start_time.FromSeconds(1_000_000)
    retention = worker_pb.Retention(
        usage_id=usage_id, usage_record=begun.SerializeToString(), resumable=True
    )
    run = worker_pb.RunRequest(retention=retention)
    origin = StreamOrigin(StreamName("t", "p", "r1"), usage_id, run)
    stream = streams.keep(origin, Source(*script))
    stream.output.take(STARTED)
    stream.leave_alone()
    while not stream.is_over:
        await asyncio.sleep(0)
    streams.close()


async def record_of(ingest):
    async with asyncio.timeout(20):
        return await ingest.records.get()


async def test_what_ended_well_is_recorded_so(ingest, usage):
    await abandoned(
        usage,
        Delta(0, "ab", (1, 2), 0),
        Finished(0, FinishReason.LENGTH, None, 2),
        Completed(5, 2, 2, Timings(0.25, 1, 1)),
    )
    record = await record_of(ingest)
    assert (record.id, record.request_id, record.tenant) == ("u1", "r1", "t")
    assert (record.status_code, record.error_reason, record.provisional) == (0, "", True)
    assert (record.input_tokens, record.cached_tokens, record.output_tokens) == (5, 2, 2)
    assert list(record.finish_reasons) == ["length"]
    assert (record.duration_ms, record.queue_ms) == (2500.0, 250.0)
    assert record.time_to_first_token_ms == 0.0


async def test_what_was_given_up_is_recorded_as_cancelled(ingest, usage):
    await abandoned(usage, Delta(0, "a", (1,), 0))
    record = await record_of(ingest)
    assert record.status_code == grpc.StatusCode.CANCELLED.value[0]
    assert (record.error_reason, record.output_tokens) == ("CANCELLED", 1)


async def test_what_failed_is_recorded_with_its_reason(ingest, usage):
    await abandoned(usage, Delta(0, "a", (1,), 0), DeadlineExceededError())
    record = await record_of(ingest)
    assert record.status_code == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    assert record.error_reason == "DEADLINE_EXCEEDED"


async def test_records_wait_for_a_telemetry_that_is_away(ingest, usage):
    ingest.num_refusals = 2
    await abandoned(usage, usage_id="u1")
    await abandoned(usage, usage_id="u2")
    assert {(await record_of(ingest)).id, (await record_of(ingest)).id} == {"u1", "u2"}


async def test_records_are_owed_until_telemetry_has_them(ingest, certified_home):
    owed = Owed()
    tls = TlsIdentity.in_home(certified_home, "engine")
    async with open_channel(ingest.address, tls=tls, server_name="telemetry") as channel:
        usage = AbandonedUsage(channel, owed, now_s=lambda: NOW_S)
        ingest.num_refusals = 1
        await abandoned(usage, Delta(0, "a", (1,), 0))
        await usage.finish()
        (record,) = map(usage_pb.UsageRecord.FromString, owed.records.values())
        assert (record.id, record.output_tokens, record.provisional) == ("u1", 1, True)
        await usage.finish()
        assert owed.records == {}


async def test_without_telemetry_nothing_is_recorded():
    usage = AbandonedUsage(None, Owed())
    await abandoned(usage)
    await usage.finish()
