import sqlite3
import stat

import pytest
from sqlalchemy.exc import IntegrityError

from caravan_rpckit.errors import Reason
from caravan_telemetry.domain.errors import StoreUnavailableError, StoreUnusableError
from caravan_telemetry.storage.database import Database
from caravan_telemetry.storage.migrations import MIGRATIONS, migrate
from caravan_telemetry.storage.request_records import SqlRequestStore


@pytest.fixture
def path(tmp_path):
    return tmp_path / "telemetry.db"


def read(path, sql):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def write(path, sql):
    connection = sqlite3.connect(path)
    connection.execute(sql)
    connection.commit()
    connection.close()


def test_records_survive_closing_and_keep_every_field(path, make_record):
    database = Database(path)
    SqlRequestStore(database).add([make_record(labels={"team": "süd"})], 77)
    database.close()

    (row,) = read(path, "SELECT * FROM request_records")
    assert row == (
        *("record-1", "request-1", "default", "alice", "key-1"),
        *("caravan.inference.v1.InferenceService/StreamGenerate", "bundled", "sha256:0"),
        *(0, "", '["length"]', 10, 4, 32, 1_700_000_000_000, 125.5, 20.25, 0.5, 10),
        *('{"team": "süd"}', "gateway-1", 77, 2, 0),
    )
    again = Database(path)
    assert len(SqlRequestStore(again).add([make_record()], 78)) == 0
    again.close()


def test_commits_are_durable_and_the_file_is_private(path):
    database = Database(path)
    with database.transaction() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    database.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_new_database_has_the_newest_version_and_stays_so(path):
    for _ in range(2):
        Database(path).close()
        assert read(path, "SELECT version FROM schema_version") == [(len(MIGRATIONS),)]


def test_a_newer_schema_is_refused_and_left_alone(path):
    Database(path).close()
    write(path, "UPDATE schema_version SET version = 99")
    with pytest.raises(StoreUnusableError, match="schema version 99") as caught:
        Database(path)
    assert caught.value.reason is Reason.INVALID_CONFIGURATION
    assert read(path, "SELECT version FROM schema_version") == [(99,)]


def test_each_step_runs_once_and_in_order(path):
    database = Database(path)
    steps = [*MIGRATIONS, ("CREATE TABLE later (n INTEGER)", "INSERT INTO later VALUES (1)")]
    for found in (len(MIGRATIONS), len(steps)):
        with database.transaction() as connection:
            assert migrate(connection, steps) == found
    database.close()
    assert read(path, "SELECT n FROM later") == [(1,)]


def test_a_step_that_fails_leaves_the_schema_as_it_was(path):
    database = Database(path)
    steps = [*MIGRATIONS, ("CREATE TABLE later (n INTEGER)", "no such statement")]
    with pytest.raises(StoreUnavailableError), database.transaction() as connection:
        migrate(connection, steps)
    database.close()
    assert read(path, "SELECT version FROM schema_version") == [(len(MIGRATIONS),)]
    assert read(path, "SELECT name FROM sqlite_master WHERE name = 'later'") == []


def test_a_damaged_file_is_refused_with_advice(path):
    path.write_bytes(b"not a database at all" * 500)
    with pytest.raises(StoreUnusableError, match="move the file away"):
        Database(path)


def test_a_file_that_cannot_be_opened_is_named(path):
    path.mkdir()
    with pytest.raises(StoreUnusableError, match=r"telemetry\.db"):
        Database(path)


def test_a_full_disk_stores_nothing_and_recovers(path, make_record):
    database = Database(path)
    store = SqlRequestStore(database)
    store.add([make_record("before")], 1)
    with database.transaction() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    with database.transaction() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(StoreUnavailableError) as caught:
        store.add([make_record(f"r{n}") for n in range(500)], 1)
    assert caught.value.reason is Reason.DEPENDENCY_UNAVAILABLE
    assert read(path, "SELECT id FROM request_records") == [("before",)]

    with database.transaction() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 100000")
    assert len(store.add([make_record(f"r{n}") for n in range(500)], 1)) == 500
    database.close()


def test_a_mistake_of_ours_is_not_blamed_on_the_disk(path):
    database = Database(path)
    with pytest.raises(IntegrityError), database.transaction() as connection:
        connection.exec_driver_sql("INSERT INTO request_records (id) VALUES ('a')")
    database.close()


def test_the_log_says_why_without_values(path, make_record, caplog):
    database = Database(path)
    with database.transaction() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
    batch = [make_record(f"r{n}", principal="canary" * 40) for n in range(500)]
    with pytest.raises(StoreUnavailableError):
        SqlRequestStore(database).add(batch, 1)
    database.close()
    (entry,) = [r for r in caplog.records if r.name == "caravan.telemetry.storage"][-1:]
    assert entry.__dict__["sqlite_error"] == "SQLITE_FULL"
    assert "canary" not in str(entry.__dict__)
