"""Brings usage records from finished calls through a spool on disk to telemetry.

Two loops: one writes what calls hand over to the spool, one empties the spool towards telemetry.
The end of a call waits for the first of them, for a bounded time; calls that end while it writes
share the next write. No call ever waits for telemetry.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from caravan_gateway.domain.usage import UsageRecord
from caravan_gateway.runtime.backoff import Backoff

_log = logging.getLogger("caravan.gateway.usage")

# What telemetry takes at once.
MAX_BATCH_RECORDS = 500
_LINGER_S = 0.2
_FINAL_DELIVERY_S = 2.0
_REPORT_INTERVAL_S = 60.0


class SpoolError(Exception):
    """The spool on disk cannot be read or written: full, torn away or read-only."""


class TelemetryUnavailableError(Exception):
    """Telemetry did not acknowledge; the same batch is sent again."""


class RecordsRefusedError(Exception):
    """Telemetry will never take the batch because of the records at `positions`.

    Empty positions: it did not say which.
    """

    def __init__(self, positions: Collection[int]) -> None:
        super().__init__("telemetry refused records")
        self.positions = frozenset(positions)


@dataclass(frozen=True, slots=True)
class SpooledRecord:
    """A record on disk. `sequence` orders it, `payload` is its wire form."""

    sequence: int
    payload: bytes


class Spool(Protocol):
    """Records on disk, oldest first. Every method may raise SpoolError."""

    @property
    def num_records(self) -> int:
        """How many wait."""

    async def append(self, payloads: Sequence[bytes]) -> None:
        """Adds all or none; they survive the death of the process from then on."""

    async def oldest(self, limit: int) -> list[SpooledRecord]:
        """Returns the first ones."""

    async def remove(self, sequences: Sequence[int]) -> None:
        """Removes what was delivered."""


class UsageReceiver(Protocol):
    """Telemetry."""

    async def deliver(self, payloads: Sequence[bytes]) -> None:
        """Returns when all are stored there.

        Raises:
            TelemetryUnavailableError: perhaps none is.
            RecordsRefusedError: none is, and none will be.
        """


class UsageMeter(Protocol):
    """Counts what happens to records."""

    def dropped(self, count: int, cause: str) -> None:
        """Records are lost."""

    def delivered(self, count: int) -> None:
        """Records arrived."""

    def late(self, cause: str) -> None:
        """A call ended before its record was on disk."""


class UsageDelivery:
    """The sink of the record stage. Owned by the event loop."""

    def __init__(
        self,
        spool: Spool,
        receiver: UsageReceiver,
        meter: UsageMeter,
        *,
        encode: Callable[[UsageRecord], bytes],
        max_unwritten: int,
        max_wait_s: float,
        clock: Callable[[], float],
    ) -> None:
        """Prepares delivery.

        Args:
            spool: where records wait.
            receiver: where they go.
            meter: counts them.
            encode: their wire form.
            max_unwritten: records in memory while the disk does not take them; more are lost.
            max_wait_s: for which the end of a call waits for the disk; 0 doesn't wait.
            clock: monotonic, in seconds.
        """
        self._spool = spool
        self._receiver = receiver
        self._meter = meter
        self._encode = encode
        self._max_unwritten = max_unwritten
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._unwritten: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._spooled = asyncio.Event()
        self._next_report_s = 0.0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._trouble = ""  # why nobody waits for the disk: it failed, or was too slow
        self.num_taken = 0
        """How many records came in, lost ones not counted."""
        self.num_written = 0
        """How many of them, in their order, survive this process."""
        self.telemetry_reachable: bool | None = None

    @property
    def num_waiting(self) -> int:
        """Records that telemetry does not have yet."""
        return len(self._unwritten) + self._spool.num_records

    def record(self, usage: UsageRecord) -> bool:
        """Takes one record, or loses it and returns False; never blocks and never fails."""
        if len(self._unwritten) >= self._max_unwritten:
            self._drop(1, "memory_full")
            return False
        self.num_taken += 1
        self._unwritten.append(self._encode(usage))
        self._arrived.set()
        return True

    async def written(self) -> None:
        """Returns when all that was taken so far is on disk, or can't be waited for.

        While the disk takes nothing, or is known to be too slow, nobody waits: a call costs its
        client no time that doesn't help. The worker then keeps its account of the generation.
        """
        if self.num_written >= self.num_taken:
            return
        if self._max_wait_s <= 0 or self._trouble:
            self._meter.late(self._trouble or "not_awaited")
            return
        on_disk = asyncio.get_running_loop().create_future()
        self._waiting.append((self.num_taken, on_disk))
        await asyncio.wait((on_disk,), timeout=self._max_wait_s)
        if not on_disk.done():
            self._trouble = self._trouble or "slow"
        if self._trouble:
            self._meter.late(self._trouble)

    async def run(self) -> None:
        """Writes and delivers until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write_forever())
            group.create_task(self._deliver_forever())

    async def finish(self) -> None:
        """After `run` was cancelled: writes what is left, and tries once to deliver it."""
        while self._unwritten and await self._write_batch():
            pass
        if self._unwritten:
            self._drop(len(self._unwritten), "disk")
            self._unwritten.clear()
        try:
            async with asyncio.timeout(_FINAL_DELIVERY_S):
                while await self._deliver_batch():
                    pass
        except TimeoutError:
            _log.info("usage records wait for the next start", extra={"count": self.num_waiting})

    async def _write_forever(self) -> None:
        backoff = Backoff(0.5, 10.0)
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._unwritten:
                if await self._write_batch():
                    backoff.reset()
                else:
                    await asyncio.sleep(backoff.next_s())

    async def _write_batch(self) -> bool:
        batch = [self._unwritten[at] for at in range(min(len(self._unwritten), MAX_BATCH_RECORDS))]
        try:
            await self._spool.append(batch)
        except SpoolError as error:
            self._trouble = "disk"
            self._wake(self.num_taken)
            self._report("usage records cannot be written to the spool", cause=str(error))
            return False
        for _ in batch:
            self._unwritten.popleft()
        self.num_written += len(batch)
        self._trouble = ""
        self._wake(self.num_written)
        self._spooled.set()
        return True

    def _wake(self, mark: int) -> None:
        """Ends the waiting of those that waited for no more than the first `mark` records."""
        while self._waiting and self._waiting[0][0] <= mark:
            _, on_disk = self._waiting.popleft()
            if not on_disk.done():
                on_disk.set_result(None)

    async def _deliver_forever(self) -> None:
        backoff = Backoff(0.2, 15.0)
        while True:
            if await self._deliver_batch():
                backoff.reset()
            elif self._spool.num_records:
                await asyncio.sleep(backoff.next_s())
            else:
                self._spooled.clear()
                await self._spooled.wait()
                await asyncio.sleep(_LINGER_S)  # lets a batch come together

    async def _deliver_batch(self) -> bool:
        """Delivers the oldest records; False when there are none or it did not work."""
        try:
            batch = await self._spool.oldest(MAX_BATCH_RECORDS)
            if not batch:
                return False
            await self._send(batch)
            await self._spool.remove([record.sequence for record in batch])
        except SpoolError as error:
            self._report("the usage spool cannot be read", cause=str(error))
            return False
        except TelemetryUnavailableError:
            self.telemetry_reachable = False
            return False
        self.telemetry_reachable = True
        return True

    async def _send(self, batch: Sequence[SpooledRecord]) -> None:
        """Returns when telemetry has all that it will ever take."""
        try:
            await self._receiver.deliver([record.payload for record in batch])
        except RecordsRefusedError as refusal:
            await self._send_sound(batch, refusal.positions)
        else:
            self._meter.delivered(len(batch))

    async def _send_sound(self, batch: Sequence[SpooledRecord], faulty: frozenset[int]) -> None:
        if len(batch) == 1 or len(faulty) == len(batch):
            self._drop(len(batch), "refused")
            return
        if faulty:
            self._drop(len(faulty), "refused")
            await self._send([one for at, one in enumerate(batch) if at not in faulty])
            return
        middle = len(batch) // 2
        await self._send(batch[:middle])
        await self._send(batch[middle:])

    def _drop(self, count: int, cause: str) -> None:
        self._meter.dropped(count, cause)
        self._report("usage records are lost", cause=cause)

    def _report(self, message: str, *, cause: str) -> None:
        """Logs at most once a minute: a full disk must not fill the log as well."""
        now_s = self._clock()
        if now_s >= self._next_report_s:
            self._next_report_s = now_s + _REPORT_INTERVAL_S
            _log.error(message, extra={"cause": cause, "waiting_count": self.num_waiting})
