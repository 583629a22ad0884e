"""Opens the SQLite file of this service, under settings that make a commit durable."""

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError

from caravan_telemetry.domain.errors import StoreUnavailableError, StoreUnusableError
from caravan_telemetry.storage.migrations import migrate

_log = logging.getLogger("caravan.telemetry.storage")

_BUSY_TIMEOUT_MS = 5_000
_PRAGMAS = (
    f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # the sender forgets what was acknowledged
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA trusted_schema = OFF",
)


class Database:
    """One SQLite file with the newest schema. Used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        """Opens the file, which is made if need be, and brings its schema up to date.

        Raises:
            StoreUnusableError: it cannot be opened or written, is damaged, or is too new.
        """
        self._path = path
        self._engine = self._open()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction that commits at the end, durably, or not at all.

        Raises:
            StoreUnavailableError: nothing was written. The log says why.
        """
        try:
            with self._engine.begin() as connection:
                yield connection
        except DatabaseError as error:
            if _is_mistake(error.orig):
                raise
            _log.error(
                "telemetry database cannot store",
                extra={"cause": _cause(error), "sqlite_error": _error_name(error.orig)},
            )
            raise StoreUnavailableError from error

    def close(self) -> None:
        """Closes the file; the object is of no use afterwards."""
        self._engine.dispose()

    def _open(self) -> Engine:
        self._make_file()
        url = URL.create("sqlite", database=str(self._path))
        engine = create_engine(url, pool_size=1, max_overflow=0, hide_parameters=True)
        event.listen(engine, "connect", _set_up)
        event.listen(engine, "begin", _begin)
        try:
            with engine.begin() as connection:
                found = migrate(connection)
        except DatabaseError as error:
            engine.dispose()
            raise self._unusable(error) from error
        except BaseException:
            engine.dispose()
            raise
        _log.info("telemetry database open", extra={"found_schema_version": found})
        return engine

    def _make_file(self) -> None:
        """Makes the file before SQLite does, so that others on the machine can't read it."""
        try:
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise StoreUnusableError(
                f"The telemetry database {self._path} cannot be opened for writing: "
                f"{error.strerror}."
            ) from error

    def _unusable(self, error: DatabaseError) -> StoreUnusableError:
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return StoreUnusableError(
                f"The telemetry database {self._path} is damaged ({_cause(error)}). Restore a "
                "backup, or move the file away to start with an empty one; the usage records in "
                "it are lost then."
            )
        return StoreUnusableError(
            f"The telemetry database {self._path} cannot be used: {_cause(error)}."
        )


def _set_up(connection: Any, record: object) -> None:  # noqa: ANN401 (the driver's type)
    connection.isolation_level = None  # `_begin` begins, not the driver
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _is_mistake(original: object) -> bool:
    """Whether the fault is in our statements, not in the file or the disk."""
    mistakes = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError)
    return isinstance(original, mistakes)


def _cause(error: DatabaseError) -> str:
    """The first line of what the driver said; later ones may hold values."""
    lines = str(error.orig).splitlines()
    return lines[0] if lines else type(error).__name__


def _error_name(original: object) -> str:
    return str(getattr(original, "sqlite_errorname", type(original).__name__))
