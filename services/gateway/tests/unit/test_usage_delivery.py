import asyncio
from contextlib import asynccontextmanager

import pytest

from caravan_gateway.runtime.usage_delivery import (
    RecordsRefusedError,
    SpooledRecord,
    SpoolError,
    TelemetryUnavailableError,
    UsageDelivery,
)


class Spool:
    def __init__(self):
        self.records = []
        self.next = 1
        self.num_writes = 0
        self.fault = False
        self.answers = asyncio.Event()
        self.answers.set()

    @property
    def num_records(self):
        return len(self.records)

    async def append(self, payloads):
        await self.answers.wait()
        if self.fault:
            raise SpoolError("disk full")
        self.num_writes += 1
        for payload in payloads:
            self.records.append(SpooledRecord(self.next, payload))
            self.next += 1

    async def oldest(self, limit):
        if self.fault:
            raise SpoolError("disk gone")
        return self.records[:limit]

    async def remove(self, sequences):
        self.records = [one for one in self.records if one.sequence not in set(sequences)]


class Telemetry:
    def __init__(self):
        self.batches = []
        self.away = False
        self.faulty = set()
        self.says_which = True

    async def deliver(self, payloads):
        if self.away:
            raise TelemetryUnavailableError
        faulty = [at for at, payload in enumerate(payloads) if payload in self.faulty]
        if faulty:
            raise RecordsRefusedError(faulty if self.says_which else [])
        self.batches.append(list(payloads))

    @property
    def payloads(self):
        return [payload for batch in self.batches for payload in batch]


class Meter:
    def __init__(self):
        self.lost = []
        self.num_delivered = 0
        self.late_causes = []

    def dropped(self, count, cause):
        self.lost.append((count, cause))

    def delivered(self, count):
        self.num_delivered += count

    def late(self, cause):
        self.late_causes.append(cause)


@pytest.fixture
def spool():
    return Spool()


@pytest.fixture
def telemetry():
    return Telemetry()


@pytest.fixture
def meter():
    return Meter()


@pytest.fixture
def make_delivery(spool, telemetry, meter, fake_clock):
    def make(max_wait_s=3600):
        return UsageDelivery(
            spool,
            telemetry,
            meter,
            encode=str.encode,
            max_unwritten=600,
            max_wait_s=max_wait_s,
            clock=fake_clock,
        )

    return make


@pytest.fixture
def delivery(make_delivery):
    return make_delivery()


@asynccontextmanager
async def running(delivery):
    task = asyncio.create_task(delivery.run())
    try:
        async with asyncio.timeout(20):
            yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_records_are_written_and_delivered_in_order(delivery, telemetry, spool, meter):
    for number in range(501):
        delivery.record(str(number))
    await delivery.finish()
    assert [len(batch) for batch in telemetry.batches] == [500, 1]
    assert telemetry.payloads == [str(number).encode() for number in range(501)]
    assert (spool.num_records, delivery.num_waiting, meter.num_delivered) == (0, 0, 501)
    assert delivery.telemetry_reachable


async def test_records_stay_on_disk_while_telemetry_is_away(delivery, telemetry, spool):
    telemetry.away = True
    delivery.record("a")
    await delivery.finish()
    assert (spool.num_records, delivery.num_waiting) == (1, 1)
    assert delivery.telemetry_reachable is False


async def test_the_loops_deliver_by_themselves(delivery, telemetry, spool):
    async with running(delivery):
        delivery.record("a")
        while telemetry.payloads != [b"a"] or spool.num_records:
            await asyncio.sleep(0.01)


async def test_the_end_of_a_call_waits_until_its_record_is_on_disk(delivery, spool, meter):
    spool.answers.clear()
    async with running(delivery):
        delivery.record("a")
        waiting = asyncio.create_task(delivery.written())
        await asyncio.wait((waiting,), timeout=0.02)
        assert not waiting.done()
        spool.answers.set()
        await waiting
        assert [one.payload for one in spool.records] == [b"a"]
    assert meter.late_causes == []


async def test_records_of_calls_that_end_during_a_write_share_the_next(delivery, spool):
    spool.answers.clear()
    async with running(delivery):
        ends = []
        for number in range(10):
            delivery.record(str(number))
            ends.append(asyncio.create_task(delivery.written()))
            await asyncio.sleep(0)
        spool.answers.set()
        await asyncio.gather(*ends)
    assert spool.num_writes == 2


async def test_nobody_waits_for_a_record_that_is_on_disk(delivery, spool):
    async with running(delivery):
        delivery.record("a")
        await delivery.written()
    await delivery.written()  # nothing runs that could end a waiting


async def test_nobody_waits_while_the_disk_takes_nothing(delivery, spool, meter):
    spool.fault = True
    async with running(delivery):
        for record in ("a", "b"):
            delivery.record(record)
            await delivery.written()
        assert meter.late_causes == ["disk", "disk"]
        assert delivery.num_written == 0
        spool.fault = False
        while delivery.num_written < 2:
            await asyncio.sleep(0.01)
        delivery.record("c")
        await delivery.written()
    assert [one.payload for one in spool.records] == [b"a", b"b", b"c"]
    assert meter.late_causes == ["disk", "disk"]


async def test_a_slow_disk_is_waited_for_once(make_delivery, spool, meter):
    delivery = make_delivery(max_wait_s=0.05)
    spool.answers.clear()
    async with running(delivery):
        delivery.record("a")
        await delivery.written()
        assert meter.late_causes == ["slow"]
        delivery.record("b")
        await delivery.written()
        assert meter.late_causes == ["slow", "slow"]
        spool.answers.set()
        while delivery.num_written < 2:
            await asyncio.sleep(0.01)
        delivery.record("c")
        await delivery.written()
    assert meter.late_causes == ["slow", "slow"]


async def test_nobody_waits_where_that_is_not_wanted(make_delivery, meter):
    delivery = make_delivery(max_wait_s=0)
    delivery.record("a")
    await delivery.written()
    assert meter.late_causes == ["not_awaited"]


async def test_a_disk_that_recovers_gets_what_waited_in_memory(delivery, telemetry, spool, meter):
    spool.fault = True
    async with running(delivery):
        delivery.record("a")
        await delivery.written()
        assert delivery.num_waiting == 1
        spool.fault = False
        while telemetry.payloads != [b"a"]:
            await asyncio.sleep(0.01)
    assert not meter.lost


async def test_memory_is_bounded_while_the_disk_takes_nothing(delivery, spool, meter, caplog):
    spool.fault = True
    taken = [delivery.record(str(number)) for number in range(605)]
    assert taken == [True] * 600 + [False] * 5
    assert sum(count for count, _ in meter.lost) == 5
    assert {cause for _, cause in meter.lost} == {"memory_full"}
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    await delivery.finish()
    assert meter.lost[-1] == (600, "disk")
    assert delivery.num_written == 0


@pytest.mark.parametrize("says_which", [True, False])
async def test_only_refused_records_are_lost(delivery, telemetry, meter, spool, says_which):
    telemetry.says_which = says_which
    telemetry.faulty = {b"3", b"7"}
    for number in range(10):
        delivery.record(str(number))
    await delivery.finish()
    assert sorted(telemetry.payloads) == [str(n).encode() for n in range(10) if n not in (3, 7)]
    assert sum(count for count, _ in meter.lost) == 2
    assert meter.num_delivered == 8
    assert spool.num_records == 0


async def test_a_batch_of_which_nothing_is_sound_is_lost_as_a_whole(delivery, telemetry, meter):
    telemetry.faulty = {b"1", b"2"}
    delivery.record("1")
    delivery.record("2")
    await delivery.finish()
    assert meter.lost == [(2, "refused")]
