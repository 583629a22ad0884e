"""Opens the database: SQLite with settings under which a commit is durable, or another by URL."""

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DatabaseError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from caravan_policy.domain.errors import StoreUnavailableError, StoreUnusableError
from caravan_policy.storage.migrations import migrate

_log = logging.getLogger("caravan.policy.storage")

_WRITES = "caravan_writes"
_BUSY_TIMEOUT_S = 5.0
_PRAGMAS = (
    "PRAGMA journal_mode=WAL",  # readers never wait for the writer
    "PRAGMA synchronous=FULL",  # a revocation that was answered survives a power cut
    "PRAGMA foreign_keys=ON",
    "PRAGMA trusted_schema=OFF",
)


def sqlite_url(path: Path) -> URL:
    """The URL of a SQLite file, whatever characters its path has."""
    return URL.create("sqlite", database=str(path))


def open_database(url: str | URL, *, pool_size: int = 4) -> Engine:
    """Opens the database at `url`, checks that it is sound, and brings its schema up to date.

    Raises:
        StoreUnusableError: it cannot be opened, read or written, is damaged, or is too new.
    """
    engine = _make_engine(url, pool_size)
    try:
        with _start_failures_explained(engine):
            _check_integrity(engine)
            with writing(engine) as connection:
                found = migrate(connection)
    except BaseException:
        engine.dispose()
        raise
    _log.info("policy database open", extra={"found_schema_version": found})
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection whose statements see one moment of the database.

    Raises:
        StoreUnavailableError: the database does not answer.
    """
    with _outages_translated(), engine.begin() as connection:
        yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that holds the only right to write from its start; commits at the end.

    Raises:
        StoreUnavailableError: the database does not answer.
    """
    with (
        _outages_translated(),
        engine.execution_options(**{_WRITES: True}).begin() as connection,
    ):
        yield connection


def _make_engine(url: str | URL, pool_size: int) -> Engine:
    try:
        parsed = make_url(url)
        is_sqlite = parsed.get_backend_name() == "sqlite"
        if is_sqlite:
            _prepare_file(parsed.database)
        engine = sqlalchemy.create_engine(
            parsed,
            hide_parameters=True,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=_BUSY_TIMEOUT_S,
            pool_pre_ping=not is_sqlite,  # a server may have restarted in between
        )
    except (SQLAlchemyError, ImportError) as error:
        raise StoreUnusableError(
            "The setting database.url cannot be used: it is malformed, or the driver that it "
            f"names is not installed or too old ({type(error).__name__})."
        ) from None  # the cause may quote a password
    if is_sqlite:
        event.listen(engine, "connect", _set_up_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_file(database: str | None) -> None:
    """Makes the file before SQLite does, so that others on the machine can't read it."""
    if not database or database == ":memory:" or database.startswith("file:"):
        raise StoreUnusableError(
            "The setting database.url must name a file: keys must survive a restart."
        )
    try:
        os.close(os.open(Path(database), os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreUnusableError(
            f"The policy database {database} cannot be opened for writing: {error.strerror}."
        ) from error


def _set_up_sqlite(connection: Any, record: object) -> None:  # noqa: ANN401 (the driver's type)
    connection.isolation_level = None  # transactions are begun below, not by the driver
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout={int(_BUSY_TIMEOUT_S * 1000)}")
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    # Upgrading a reader to a writer can fail at once with "locked"; so writers say so first.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _check_integrity(engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        return
    with engine.begin() as connection:
        found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
    if found != "ok":
        raise _damaged(engine, str(found))


@contextmanager
def _start_failures_explained(engine: Engine) -> Iterator[None]:
    try:
        yield
    except StoreUnavailableError as error:
        raise _unusable(engine, error.__cause__ or error) from error
    except DatabaseError as error:
        raise _unusable(engine, error) from error


def _unusable(engine: Engine, error: BaseException) -> StoreUnusableError:
    cause = _cause(error)
    original = getattr(error, "orig", None)
    if isinstance(original, sqlite3.DatabaseError) and _is_damage(original):
        return _damaged(engine, cause)
    return StoreUnusableError(f"The policy database{_place(engine)} cannot be used: {cause}.")


def _damaged(engine: Engine, cause: str) -> StoreUnusableError:
    return StoreUnusableError(
        f"The policy database{_place(engine)} is damaged ({cause}). Restore a backup, or move the "
        "file away to start with an empty one; keys and principals in it are lost then."
    )


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _place(engine: Engine) -> str:
    return f" {engine.url.database}" if engine.dialect.name == "sqlite" else ""


def _cause(error: BaseException) -> str:
    """The first line of what the driver said; later lines may hold values."""
    text = str(getattr(error, "orig", None) or type(error).__name__)
    return text.splitlines()[0] if text else type(error).__name__


@contextmanager
def _outages_translated() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeoutError) as error:
        raise _unavailable(error) from error
    except DatabaseError as error:
        if isinstance(error.orig, sqlite3.DatabaseError) and _is_damage(error.orig):
            raise _unavailable(error) from error
        raise


def _unavailable(error: Exception) -> StoreUnavailableError:
    _log.error("policy database does not answer", extra={"cause": _cause(error)})
    return StoreUnavailableError()
