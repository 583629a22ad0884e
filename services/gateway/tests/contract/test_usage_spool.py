"""What every spool must do; SQLite is the only one."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys

import pytest

from caravan_gateway.domain.errors import SpoolUnusableError
from caravan_gateway.runtime.usage_delivery import SpoolError
from caravan_gateway.storage.usage_spool import SqliteSpool

BIG = 2**24


@pytest.fixture
def path(tmp_path):
    return tmp_path / "usage.db"


@pytest.fixture
async def open_spool(path):
    opened = []

    async def open_(max_bytes=BIG):
        spool = SqliteSpool(path, max_bytes=max_bytes)
        opened.append(spool)
        await spool.open()
        return spool

    yield open_
    for spool in opened:
        await spool.close()


async def test_records_come_back_in_order_and_go_when_removed(open_spool):
    spool = await open_spool()
    await spool.append([b"a", b"b"])
    await spool.append([b"c"])
    oldest = await spool.oldest(2)
    assert [one.payload for one in oldest] == [b"a", b"b"]
    await spool.remove([one.sequence for one in oldest])
    assert [one.payload for one in await spool.oldest(9)] == [b"c"]
    assert spool.num_records == 1


async def test_removing_twice_is_harmless(open_spool):
    spool = await open_spool()
    await spool.append([b"a"])
    (record,) = await spool.oldest(1)
    await spool.remove([record.sequence])
    await spool.remove([record.sequence])
    assert spool.num_records == 0


async def test_sequences_are_never_used_twice(open_spool):
    spool = await open_spool()
    await spool.append([b"a"])
    (first,) = await spool.oldest(1)
    await spool.remove([first.sequence])
    await spool.append([b"b"])
    (second,) = await spool.oldest(1)
    assert second.sequence > first.sequence


async def test_records_outlive_a_close(path, open_spool):
    await _written(path, [b"a", b"b"])
    again = await open_spool()
    assert again.num_records == 2
    assert [one.payload for one in await again.oldest(9)] == [b"a", b"b"]


async def _written(path, payloads):
    spool = SqliteSpool(path, max_bytes=BIG)
    await spool.open()
    await spool.append(payloads)
    await spool.close()


async def test_a_full_spool_takes_all_or_nothing_and_room_comes_back(open_spool):
    spool = await open_spool(max_bytes=2**17)
    batch = [os.urandom(1000) for _ in range(20)]
    count = await _fill(spool, batch)
    assert spool.num_records == count > 0
    with pytest.raises(SpoolError):
        await spool.append(batch)
    assert len(await spool.oldest(10_000)) == count
    await spool.remove([one.sequence for one in await spool.oldest(count)])
    await spool.append(batch)


async def _fill(spool, batch):
    """Appends until it is full; returns how many records it took."""
    count = 0
    with contextlib.suppress(SpoolError):
        while await spool.append(batch) is None:
            count += len(batch)
    return count


async def test_the_file_is_private(open_spool, path):
    await open_spool()
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", [b"this is no database at all" * 99, b"\0" * 8192])
async def test_a_damaged_file_is_put_aside(open_spool, path, damage, caplog):
    path.write_bytes(damage)
    spool = await open_spool()
    await spool.append([b"a"])
    assert spool.num_records == 1
    (aside,) = path.parent.glob("usage.db.damaged-*")
    assert aside.read_bytes() == damage
    assert "damaged" in caplog.text


async def test_a_torn_page_is_found_at_the_start(open_spool, path):
    await _written(path, [b"x" * 900 for _ in range(100)])
    content = bytearray(path.read_bytes())
    content[4096 : 4096 * 4] = os.urandom(4096 * 3)
    path.write_bytes(content)
    again = await open_spool()
    assert again.num_records == 0
    assert list(path.parent.glob("usage.db.damaged-*"))


async def test_a_file_of_a_later_version_is_put_aside_not_misread(open_spool, path):
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    spool = await open_spool()
    assert spool.num_records == 0
    assert list(path.parent.glob("usage.db.damaged-*"))


async def test_a_folder_that_cannot_be_written_is_refused_clearly(tmp_path):
    spool = SqliteSpool(tmp_path / "missing" / "usage.db", max_bytes=BIG)
    with pytest.raises(SpoolUnusableError):
        await spool.open()
    await spool.close()


_WRITER = """
import asyncio, sys
from pathlib import Path
from caravan_gateway.storage.usage_spool import SqliteSpool

async def main():
    spool = SqliteSpool(Path(sys.argv[1]), max_bytes=2**24)
    await spool.open()
    for number in range(1_000_000):
        await spool.append([b"%d" % number, b"%d" % number])
        print(number, flush=True)

asyncio.run(main())
"""


async def test_what_was_acknowledged_survives_kill_nine(open_spool, path):
    writer = subprocess.Popen(  # noqa: ASYNC220 (nothing else runs meanwhile)
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True
    )
    last = 0
    for line in writer.stdout:
        last = int(line)
        if last >= 200:
            break
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()

    spool = await open_spool()

    payloads = [int(one.payload) for one in await spool.oldest(100_000)]
    assert payloads == sorted(payloads)
    assert len(payloads) >= 2 * (last + 1)
    assert payloads[::2] == payloads[1::2] == list(range(len(payloads) // 2))
