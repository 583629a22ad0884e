import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from caravan_engine.domain.events import Delta
from caravan_engine.domain.kept_output import KeptOutput
from caravan_engine.runtime.account_book import AccountBook, AccountsError
from caravan_engine.runtime.retained_streams import (
    RetainedStreams,
    RetentionLimits,
    StreamName,
    StreamOrigin,
)
from caravan_engine.runtime.stream_accounts import NoAccounts
from caravan_testkit.waiting import wait_until_async


@dataclass
class Disk:
    """What is in the file; full where it is told so."""

    rows: dict = field(default_factory=dict)
    num_writes: int = 0
    num_attempts: int = 0
    is_full: bool = False
    is_closed: bool = False

    def write(self, changes):
        self.num_attempts += 1
        if self.is_full:
            raise AccountsError("full")
        self.num_writes += 1
        for usage_id, record in changes.items():
            if record is None:
                self.rows.pop(usage_id, None)
            else:
                self.rows[usage_id] = record

    def close(self):
        self.is_closed = True


class Nothing:
    def close(self):
        pass


class World:
    def __init__(self, note_s=3600.0):
        self.disk = Disk()
        self.book = AccountBook(self.disk, self._describe, note_s=note_s, retry_s=0.01)
        self._streams = RetainedStreams(
            RetentionLimits(),
            on_abandoned=lambda stream: None,
            clock=lambda: 0.0,
            call_later=asyncio.get_running_loop().call_later,
            accounts=NoAccounts(),
        )

    @staticmethod
    def _describe(stream):
        return None if stream.origin.order is None else b"%d" % stream.output.output_tokens

    def begin(self, usage_id="u1", order="order"):
        name = StreamName("t", "p", usage_id)
        origin = StreamOrigin(name, usage_id, order)
        stream = self._streams.keep(origin, Nothing(), KeptOutput())
        self.book.changed(stream)
        return stream

    async def until(self, rows):
        async def there():
            return self.disk.rows == rows

        await wait_until_async(there, timeout_s=20, what=f"{rows} on disk")

    @asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.book.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.book.finish()


@pytest.fixture
async def world():
    return World()


async def test_a_generation_is_on_disk_from_its_beginning_until_it_is_settled(world):
    async with world.running():
        stream = world.begin()
        await world.until({"u1": b"0"})
        stream.output.take(Delta(0, "ab", (1, 2), 0))
        world.book.changed(stream)
        await world.until({"u1": b"2"})
        world.book.settled("u1")
        await world.until({})
    assert world.disk.is_closed


async def test_what_grows_is_noted_after_a_while():
    world = World(note_s=0.02)
    async with world.running():
        stream = world.begin()
        await world.until({"u1": b"0"})
        stream.output.take(Delta(0, "a", (1,), 0))
        world.book.grew(stream)
        await world.until({"u1": b"1"})


async def test_what_happens_in_one_moment_is_one_write(world):
    async with world.running():
        for number in range(20):
            world.begin(f"u{number}")
        await world.until({f"u{number}": b"0" for number in range(20)})
    assert world.disk.num_writes == 1


async def test_what_is_settled_before_it_was_written_never_is(world):
    world.begin("gone")
    world.book.settled("gone")
    async with world.running():
        world.begin("stays")
        await world.until({"stays": b"0"})
    assert world.disk.num_writes == 1


async def test_an_accounted_generation_is_not_noted_again(world):
    async with world.running():
        stream = world.begin()
        await world.until({"u1": b"0"})
        stream.is_accounted = True
        world.book.settled("u1")
        world.book.changed(stream)
        await world.until({})


async def test_a_record_that_is_owed_replaces_what_was_noted(world):
    async with world.running():
        world.begin()
        await world.until({"u1": b"0"})
        world.book.owed("u1", b"the record")
        await world.until({"u1": b"the record"})


async def test_generations_without_a_record_are_left_out(world):
    async with world.running():
        world.begin("without", order=None)
        world.begin("with")
        await world.until({"with": b"0"})


async def test_a_full_disk_gets_later_what_still_matters(world, caplog):
    world.disk.is_full = True

    async def tried():
        return world.disk.num_attempts >= 2

    async with world.running():
        world.begin("stays")
        world.begin("gone")
        await wait_until_async(tried, timeout_s=20, what="two attempts")
        world.book.settled("gone")
        world.disk.is_full = False
        await world.until({"stays": b"0"})
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_what_could_not_be_removed_is_removed_later(world):
    async with world.running():
        world.begin()
        await world.until({"u1": b"0"})
        world.disk.is_full = True
        world.book.settled("u1")

        async def tried():
            return world.disk.num_attempts >= 3

        await wait_until_async(tried, timeout_s=20, what="attempts")
        world.disk.is_full = False
        await world.until({})


async def test_the_end_writes_what_is_left(world):
    world.begin()
    await world.book.finish()
    assert world.disk.rows == {"u1": b"0"}
    assert world.disk.is_closed
