"""What holds for SQLite in particular: durable settings, migrations, clear refusals."""

import os
import sqlite3
import stat

import pytest
from sqlalchemy import inspect

from caravan_policy.domain.errors import StoreUnavailableError, StoreUnusableError
from caravan_policy.storage import tables
from caravan_policy.storage.database import open_database, reading, writing
from caravan_policy.storage.migrations import MIGRATIONS, Migration, migrate
from caravan_policy.storage.sql_reader import SqlReader


@pytest.fixture
def path(tmp_path):
    return tmp_path / "policy.db"


@pytest.fixture
def opened(path):
    engines = []

    def opened():
        engines.append(open_database(f"sqlite:///{path}"))
        return engines[-1]

    yield opened
    for engine in engines:
        engine.dispose()


def _pragma(engine, name):
    with reading(engine) as connection:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def test_commits_are_durable_and_readers_do_not_block(opened):
    engine = opened()
    assert _pragma(engine, "journal_mode") == "wal"
    assert _pragma(engine, "synchronous") == 2  # FULL
    assert _pragma(engine, "foreign_keys") == 1


def test_files_are_for_the_owner_only(opened, path):
    with writing(opened()) as connection:
        connection.exec_driver_sql("UPDATE policy_state SET version = 1")
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes.values()) == {0o600}
    assert "policy.db-wal" in modes


def test_queries_and_migrations_agree_on_every_column(opened):
    inspector = inspect(opened())
    migrated = {
        name: {column["name"]: column["nullable"] for column in inspector.get_columns(name)}
        for name in inspector.get_table_names()
    }
    known = {
        table.name: {column.name for column in table.columns}
        for table in tables.metadata.tables.values()
    }
    assert {name: set(columns) for name, columns in migrated.items()} == {
        **known,
        "schema_version": {"version"},
    }


def test_migrations_are_numbered_without_gaps():
    assert [step.version for step in MIGRATIONS] == list(range(1, len(MIGRATIONS) + 1))


def test_opening_again_finds_the_schema_up_to_date(opened):
    opened()
    with writing(opened()) as connection:
        assert migrate(connection) == MIGRATIONS[-1].version


def test_older_database_is_brought_up_to_date(opened):
    steps = (*MIGRATIONS, Migration(len(MIGRATIONS) + 1, ("CREATE TABLE more (x INTEGER)",)))
    with writing(opened()) as connection:
        assert migrate(connection, steps) == len(MIGRATIONS)
        connection.exec_driver_sql("INSERT INTO more (x) VALUES (1)")


def test_failed_migration_changes_nothing(opened):
    engine = opened()
    steps = (
        *MIGRATIONS,
        Migration(len(MIGRATIONS) + 1, ("CREATE TABLE more (x INTEGER)", "SELECT nonsense")),
    )
    with pytest.raises(StoreUnavailableError), writing(engine) as connection:
        migrate(connection, steps)
    assert "more" not in inspect(engine).get_table_names()
    with writing(engine) as connection:
        assert migrate(connection) == len(MIGRATIONS)


def test_database_of_a_newer_version_is_refused_and_left_alone(opened, path):
    with writing(opened()) as connection:
        connection.exec_driver_sql("UPDATE schema_version SET version = 99")
    with pytest.raises(StoreUnusableError, match="schema version 99"):
        open_database(f"sqlite:///{path}")
    with sqlite3.connect(path) as plain:
        assert plain.execute("SELECT version FROM schema_version").fetchone() == (99,)
    plain.close()


def test_file_that_is_no_database_is_refused(path):
    path.write_bytes(b"this is not a database, but long enough to have a header " * 50)
    with pytest.raises(StoreUnusableError, match="damaged"):
        open_database(f"sqlite:///{path}")


def test_damaged_database_is_refused(opened, path):
    engine = opened()
    with writing(engine) as connection:
        rows = [{"name": f"tenant-{index}", "create_time_us": 0} for index in range(500)]
        connection.execute(tables.tenants.insert(), rows)
    engine.dispose()
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = b"\xff" * 4096
    path.write_bytes(bytes(content))
    with pytest.raises(StoreUnusableError, match="damaged"):
        open_database(f"sqlite:///{path}")


@pytest.mark.parametrize("missing", ["nowhere/policy.db", "."])
def test_path_that_cannot_be_a_database_is_refused(tmp_path, missing):
    with pytest.raises(StoreUnusableError, match="cannot be opened"):
        open_database(f"sqlite:///{tmp_path}/{missing}")


def test_place_that_cannot_be_written_is_refused():
    with pytest.raises(StoreUnusableError, match="cannot be opened"):
        open_database("sqlite:////proc/policy.db")


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?uri=true"])
def test_database_that_would_not_survive_a_restart_is_refused(url):
    with pytest.raises(StoreUnusableError, match="must name a file"):
        open_database(url)


@pytest.mark.parametrize("url", ["nonsense", "nonsense://x", "mssql+nothing://u:canary-pw@h/db"])
def test_url_that_cannot_be_used_is_refused_without_repeating_it(url):
    with pytest.raises(StoreUnusableError) as caught:
        open_database(url)
    assert "canary-pw" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_outage_is_reported_as_such_and_ends_with_its_cause(opened, path, monkeypatch):
    engine = opened()
    engine.dispose()
    hidden = path.with_name("hidden")
    path.rename(hidden)
    path.mkdir()
    reader = SqlReader(engine)
    with pytest.raises(StoreUnavailableError):
        reader.find_credential("aaaaaaaaaaaa")
    path.rmdir()
    hidden.rename(path)
    assert reader.find_credential("aaaaaaaaaaaa") is None


def test_full_disk_is_reported_as_an_outage_and_undoes_the_change(opened):
    engine = opened()
    rows = [{"name": f"tenant-{index}", "create_time_us": 0} for index in range(2000)]

    def fill():
        with writing(engine) as connection:
            connection.exec_driver_sql("PRAGMA max_page_count=30")
            connection.execute(tables.tenants.insert(), rows)

    with pytest.raises(StoreUnavailableError):
        fill()
    with reading(engine) as connection:
        assert connection.execute(tables.tenants.select()).all() == []


def test_values_are_in_no_database_error(opened, caplog):
    engine = opened()
    with pytest.raises(Exception) as caught, writing(engine) as connection:  # noqa: PT011
        connection.execute(
            tables.api_keys.insert().values(id="canary-id", tenant="canary-tenant", sha256="canary")
        )
    assert "canary" not in str(caught.value)
    assert "canary" not in caplog.text


def test_waiting_writer_gets_its_turn(opened):
    engine = opened()
    with writing(engine) as first:
        first.exec_driver_sql("UPDATE policy_state SET version = 7")
    with writing(engine) as second:
        assert second.exec_driver_sql("SELECT version FROM policy_state").scalar() == 7


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_file_is_refused(opened, path):
    opened().dispose()
    path.chmod(0o400)
    with pytest.raises(StoreUnusableError, match="cannot be opened"):
        open_database(f"sqlite:///{path}")
