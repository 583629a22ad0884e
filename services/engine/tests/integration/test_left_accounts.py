"""What dead workers used reaches telemetry, once somebody else had the time to say so."""

import pytest

from caravan.telemetry.v1 import usage_pb2 as usage_pb
from caravan_engine.clients.left_accounts import LeftAccounts
from caravan_engine.storage.account_file import AccountFile, AccountFolder
from caravan_rpckit.channel import open_channel
from caravan_rpckit.tls import TlsIdentity


@pytest.fixture
async def accounts(ingest, certified_home, tmp_path, fake_clock):
    tls = TlsIdentity.in_home(certified_home, "engine")
    async with open_channel(ingest.address, tls=tls, server_name="telemetry") as channel:
        yield LeftAccounts(channel, AccountFolder(tmp_path), wait_s=60, clock=fake_clock)


def worker_file(folder, name, *usage_ids):
    file = AccountFile(folder / f"{name}.db")
    file.write({each: usage_pb.UsageRecord(id=each).SerializeToString() for each in usage_ids})
    return file


async def test_what_a_dead_worker_left_is_told_of_after_a_time_and_once(
    accounts, ingest, tmp_path, fake_clock
):
    worker_file(tmp_path, "dead", "u1", "u2").close()
    await accounts.look()
    fake_clock.advance(59)
    await accounts.look()
    assert ingest.ids == []
    fake_clock.advance(1)
    await accounts.look()
    assert sorted(ingest.ids) == ["u1", "u2"]
    assert list(tmp_path.iterdir()) == []
    await accounts.look()
    assert len(ingest.ids) == 2


async def test_time_counts_from_the_death(accounts, ingest, tmp_path, fake_clock):
    file = worker_file(tmp_path, "alive", "u1")
    await accounts.look()
    fake_clock.advance(600)
    await accounts.look()
    file.close()
    await accounts.look()
    assert ingest.ids == []
    fake_clock.advance(60)
    await accounts.look()
    assert ingest.ids == ["u1"]


async def test_what_telemetry_does_not_take_stays_on_disk(accounts, ingest, tmp_path, fake_clock):
    worker_file(tmp_path, "dead", "u1").close()
    ingest.num_refusals = 2
    await accounts.look()
    fake_clock.advance(60)
    await accounts.look()
    await accounts.look()
    assert [each.name for each in tmp_path.iterdir()] == ["dead.db"]
    await accounts.look()
    assert ingest.ids == ["u1"]


async def test_a_record_that_is_refused_does_not_hold_up_the_others(
    accounts, ingest, tmp_path, fake_clock
):
    usage_ids = [f"u{number:04}" for number in range(700)]
    ingest.faulty = {"u0123"}
    worker_file(tmp_path, "dead", *usage_ids).close()
    await accounts.look()
    fake_clock.advance(60)
    await accounts.look()
    assert sorted(ingest.ids) == [each for each in usage_ids if each != "u0123"]
    assert list(tmp_path.iterdir()) == []


async def test_an_empty_file_goes_too_but_not_at_once(accounts, ingest, tmp_path, fake_clock):
    (tmp_path / "about-to-begin.db").touch()
    await accounts.look()
    assert len(list(tmp_path.iterdir())) == 1
    fake_clock.advance(60)
    await accounts.look()
    assert list(tmp_path.iterdir()) == []
    assert ingest.ids == []


async def test_a_worker_found_just_beginning_is_not_taken_for_dead(
    accounts, ingest, tmp_path, fake_clock
):
    (tmp_path / "alive.db").touch()
    await accounts.look()
    file = worker_file(tmp_path, "alive", "u1")
    for _ in range(2):
        fake_clock.advance(60)
        await accounts.look()
    assert ingest.ids == []
    file.close()
    await accounts.look()
    fake_clock.advance(60)
    await accounts.look()
    assert ingest.ids == ["u1"]


async def test_a_damaged_file_is_put_aside(accounts, tmp_path, caplog):
    (tmp_path / "worker.db").write_bytes(b"this is no database at all" * 400)
    await accounts.look()
    await accounts.look()
    assert [each.name for each in tmp_path.iterdir()] == ["worker.db.damaged"]
    assert [each.levelname for each in caplog.records] == ["ERROR"]


async def test_no_folder_is_no_trouble(ingest, certified_home, tmp_path, fake_clock):
    tls = TlsIdentity.in_home(certified_home, "engine")
    async with open_channel(ingest.address, tls=tls, server_name="telemetry") as channel:
        folder = AccountFolder(tmp_path / "missing")
        missing = LeftAccounts(channel, folder, wait_s=60, clock=fake_clock)
        await missing.look()
