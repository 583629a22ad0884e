"""Brings to telemetry what dead workers left unaccounted for.

Each worker keeps a file of what its generations used (`storage/account_file.py`). The host looks
after the files of those that are gone, its own and those of hosts before it. It waits first: a
gateway that lives goes on with them and accounts for them, and telemetry prefers what it says.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from caravan.telemetry.v1 import ingest_service_pb2 as ingest_pb
from caravan.telemetry.v1 import ingest_service_pb2_grpc as ingest_grpc
from caravan.telemetry.v1 import usage_pb2 as usage_pb
from caravan_engine.runtime.account_book import AccountsError

_log = logging.getLogger(__name__)

_LOOK_S = 2.0
_MAX_BATCH = 500
_TIMEOUT_S = 10.0


class AccountFiles(Protocol):
    """The files of workers. Blocking; every method may raise AccountsError."""

    def names(self) -> list[str]:
        """Which there are, of workers that live and of those that don't."""
        ...

    def read(self, name: str) -> list[bytes] | None:
        """The records in a file; None while its worker lives."""
        ...

    def remove(self, name: str) -> None:
        """Removes a file."""
        ...

    def put_aside(self, name: str) -> None:
        """Sees to it that a file which can't be read isn't found again."""
        ...


class LeftAccounts:
    """Owned by the event loop.

    Args:
        channel: To telemetry.
        files: Those of the workers.
        wait_s: Seconds for which a file lies unread after its worker was found dead.
        clock: Monotonic, in seconds.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        files: AccountFiles,
        *,
        wait_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._stub = ingest_grpc.IngestServiceStub(channel)
        self._files = files
        self._wait_s = wait_s
        self._clock = clock
        self._found_s: dict[str, float] = {}

    async def run(self) -> None:
        """Looks until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Looks at all files once."""
        names = await asyncio.to_thread(self._files.names)
        self._found_s = {name: since for name, since in self._found_s.items() if name in names}
        for name in names:
            try:
                await self._look_at(name)
            except AccountsError as error:
                await self._give_up(name, error)

    async def _look_at(self, name: str) -> None:
        found_s = self._found_s.get(name)
        is_due = found_s is not None and self._clock() >= found_s + self._wait_s
        if found_s is not None and not is_due:
            return
        records = await asyncio.to_thread(self._files.read, name)
        if records is None:  # its worker lives, perhaps after it was found just beginning
            self._found_s.pop(name, None)
        elif not is_due:
            self._found_s[name] = self._clock()
        elif await self._deliver(_parsed(records)):
            await asyncio.to_thread(self._files.remove, name)
            self._found_s.pop(name, None)

    async def _deliver(self, records: Sequence[usage_pb.UsageRecord]) -> bool:
        """Returns whether telemetry has all that it will ever take."""
        for at in range(0, len(records), _MAX_BATCH):
            if not await self._send(records[at : at + _MAX_BATCH]):
                return False
        if records:
            _log.info("usage of a dead worker recorded", extra={"count": len(records)})
        return True

    async def _send(self, batch: Sequence[usage_pb.UsageRecord]) -> bool:
        try:
            request = ingest_pb.IngestUsageRequest(records=batch)
            await self._stub.IngestUsage(request, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                return False
            if len(batch) == 1:
                _log.error("a usage record is refused", extra={"usage_id": batch[0].id})
                return True
            middle = len(batch) // 2  # a batch is refused as a whole
            return await self._send(batch[:middle]) and await self._send(batch[middle:])
        return True

    async def _give_up(self, name: str, error: AccountsError) -> None:
        extra = {"file": name, "detail": str(error)}
        _log.error("the accounts of a worker can't be read and are put aside", extra=extra)
        try:
            await asyncio.to_thread(self._files.put_aside, name)
        except AccountsError as again:
            _log.error("nor can they be put aside", extra={"detail": str(again)})


def _parsed(payloads: Sequence[bytes]) -> list[usage_pb.UsageRecord]:
    records = []
    for payload in payloads:
        try:
            records.append(usage_pb.UsageRecord.FromString(payload))
        except DecodeError:
            _log.error("a usage record of a dead worker can't be read")
    return records
