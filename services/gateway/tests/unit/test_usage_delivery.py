import asyncio

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

    @property
    def num_records(self):
        return len(self.records)

    async def append(self, payloads):
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

    def dropped(self, count, cause):
        self.lost.append((count, cause))

    def delivered(self, count):
        self.num_delivered += count


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
def delivery(spool, telemetry, meter, fake_clock):
    return UsageDelivery(
        spool, telemetry, meter, encode=str.encode, max_unwritten=600, clock=fake_clock
    )


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
    running = asyncio.create_task(delivery.run())
    delivery.record("a")
    async with asyncio.timeout(5):
        while telemetry.payloads != [b"a"] or spool.num_records:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_records_of_one_moment_are_written_at_once(delivery, telemetry, spool):
    running = asyncio.create_task(delivery.run())
    await asyncio.sleep(0)
    delivery.record("a")
    await asyncio.sleep(0)
    delivery.record("b")
    async with asyncio.timeout(5):
        while telemetry.payloads != [b"a", b"b"]:
            await asyncio.sleep(0.01)
    assert spool.num_writes == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_disk_that_recovers_gets_what_waited_in_memory(delivery, telemetry, spool, meter):
    spool.fault = True
    running = asyncio.create_task(delivery.run())
    delivery.record("a")
    await asyncio.sleep(0.05)
    assert delivery.num_waiting == 1
    spool.fault = False
    async with asyncio.timeout(5):
        while telemetry.payloads != [b"a"]:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert not meter.lost


async def test_memory_is_bounded_while_the_disk_takes_nothing(delivery, spool, meter, caplog):
    spool.fault = True
    for number in range(605):
        delivery.record(str(number))
    assert sum(count for count, _ in meter.lost) == 5
    assert {cause for _, cause in meter.lost} == {"memory_full"}
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    await delivery.finish()
    assert meter.lost[-1] == (600, "disk")


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
