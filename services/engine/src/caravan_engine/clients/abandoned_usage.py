"""Brings the usage records of abandoned generations to telemetry.

Whoever began or resumed a generation writes its record. Only where that one is gone, and nobody
came back, the worker does; both have the same id, and the worker's is provisional, so telemetry
stores one of them, and the other one where there is a choice.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.telemetry.v1 import ingest_service_pb2 as ingest_pb
from caravan.telemetry.v1 import ingest_service_pb2_grpc as ingest_grpc
from caravan.telemetry.v1 import usage_pb2 as usage_pb
from caravan_engine.runtime.retained_streams import RetainedStream
from caravan_rpckit.errors import Reason
from caravan_rpckit.status import CODE_OF_REASON

_log = logging.getLogger(__name__)

_MAX_WAITING = 10_000
_MAX_BATCH = 500
_TIMEOUT_S = 10.0
_FINAL_S = 2.0
_MIN_PAUSE_S = 0.2
_MAX_PAUSE_S = 15.0


class OwedRecords(Protocol):
    """Keeps records that telemetry doesn't have yet; see `AccountBook`."""

    def owed(self, usage_id: str, record: bytes) -> None:
        """Telemetry is to have it."""
        ...

    def settled(self, usage_id: str) -> None:
        """It has it."""
        ...


class AbandonedUsage:
    """Records in memory until telemetry has them. Owned by the event loop.

    Args:
        channel: To telemetry; None where there is none, and nothing is recorded.
        owed: Keeps the records beyond this process.
        now_s: Seconds since 1970.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel | None,
        owed: OwedRecords,
        *,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._owed = owed
        self._stub = None if channel is None else ingest_grpc.IngestServiceStub(channel)
        self._now_s = now_s
        self._waiting: deque[usage_pb.UsageRecord] = deque(maxlen=_MAX_WAITING)
        self._arrived = asyncio.Event()

    def abandoned(self, stream: RetainedStream) -> None:
        """Takes the record of a generation that is over for good."""
        if self._stub is None:
            return
        record = record_of(stream, self._now_s(), Reason.CANCELLED)
        if record is None:
            self._owed.settled(stream.origin.usage_id)
            return
        self._owed.owed(record.id, record.SerializeToString())
        self._waiting.append(record)
        self._arrived.set()

    async def run(self) -> None:
        """Delivers until cancelled."""
        pause_s = _MIN_PAUSE_S
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                if await self._deliver(_TIMEOUT_S):
                    pause_s = _MIN_PAUSE_S
                else:
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    async def finish(self) -> None:
        """After `run` was cancelled: tries once more."""
        while self._waiting and await self._deliver(_FINAL_S):
            pass
        if self._waiting:
            extra = {"count": len(self._waiting)}
            _log.warning("usage records wait for the engine host", extra=extra)

    async def _deliver(self, timeout_s: float) -> bool:
        if self._stub is None:
            return False
        batch = [self._waiting[at] for at in range(min(len(self._waiting), _MAX_BATCH))]
        try:
            request = ingest_pb.IngestUsageRequest(records=batch)
            await self._stub.IngestUsage(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                return False
            _log.error("usage records are refused", extra={"count": len(batch)})
        for record in batch:
            self._owed.settled(record.id)
            if self._waiting and self._waiting[0] is record:
                self._waiting.popleft()
        return True


def record_of(
    stream: RetainedStream, now_s: float, otherwise: Reason
) -> usage_pb.UsageRecord | None:
    """The provisional record of a generation as it is; None where it came without one.

    Args:
        stream: the generation.
        now_s: seconds since 1970.
        otherwise: why it ended, where it neither failed nor came to its end.
    """
    run = stream.origin.order
    if not isinstance(run, worker_pb.RunRequest):
        return None
    try:
        record = usage_pb.UsageRecord.FromString(run.retention.usage_record)
    except DecodeError:
        _log.error("a usage record can't be read", extra={"usage_id": stream.origin.usage_id})
        return None
    record.provisional = True
    _complete(record, stream, now_s, otherwise)
    return record


def account_of(stream: RetainedStream) -> bytes | None:
    """The record that is right if the worker dies now."""
    record = record_of(stream, time.time(), Reason.WORKER_DIED)
    return None if record is None else record.SerializeToString()


def _complete(
    record: usage_pb.UsageRecord, stream: RetainedStream, now_s: float, otherwise: Reason
) -> None:
    """Writes down how a generation ended: by itself, or because nobody came back for it."""
    output = stream.output
    reason = None if output.completed else otherwise
    if stream.error is not None:
        reason = stream.error.reason
    if reason is not None:
        record.status_code = CODE_OF_REASON[reason].value[0]
        record.error_reason = reason
    record.finish_reasons[:] = [each.reason.value for each in output.finished]
    if output.started is not None:
        record.input_tokens = output.started.input_tokens
        record.cached_tokens = output.started.cached_tokens
    if output.completed is not None:
        record.queue_ms = output.completed.timings.queue_s * 1000
    record.output_tokens = output.output_tokens
    record.duration_ms = max(0.0, (now_s - record.start_time.ToNanoseconds() / 1e9) * 1000)
    if stream.first_token_s is not None and not record.HasField("time_to_first_token_ms"):
        record.time_to_first_token_ms = stream.first_token_s * 1000
