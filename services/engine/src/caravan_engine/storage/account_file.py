"""What a worker's generations used so far, in a file that outlives the worker.

One row for each, a usage record in its wire form. A worker holds its file exclusively for as long
as it lives, however it ends; so whoever can read one knows that nobody writes it any more.
"""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from caravan_engine.runtime.account_book import AccountsError

SUFFIX = ".db"
_BESIDE = ("-wal", "-shm", "-journal")
_PAGE_BYTES = 4096
_MOST_BYTES = 64 * 2**20
_SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    usage_id TEXT PRIMARY KEY,
    record BLOB NOT NULL
) STRICT;
"""
_PUT = "INSERT OR REPLACE INTO accounts VALUES (?, ?)"
_REMOVE = "DELETE FROM accounts WHERE usage_id = ?"


class AccountFile:
    """Implements `AccountStore`. Blocking; one thread at a time."""

    def __init__(self, path: Path, *, max_bytes: int = _MOST_BYTES) -> None:
        self._path = path
        self._max_pages = max(16, max_bytes // _PAGE_BYTES)
        self._connection: sqlite3.Connection | None = None

    def write(self, changes: Mapping[str, bytes | None]) -> None:
        """See the port. The write-ahead log survives the process; nobody waits for the medium."""
        try:
            with self._opened() as transaction:
                rows = [(key, record) for key, record in changes.items() if record is not None]
                transaction.executemany(_PUT, rows)
                gone = [(key,) for key, record in changes.items() if record is None]
                transaction.executemany(_REMOVE, gone)
        except (sqlite3.Error, OSError) as error:
            raise AccountsError(f"{type(error).__name__}: {error}") from None

    def close(self) -> None:
        """See the port. Nothing stays of a file without rows."""
        if self._connection is None:
            return
        try:
            (count,) = self._connection.execute("SELECT count(*) FROM accounts").fetchone()
            self._connection.close()
        except sqlite3.Error as error:
            raise AccountsError(f"{type(error).__name__}: {error}") from None
        finally:
            self._connection = None
        if not count:
            _remove(self._path)

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.touch(mode=0o600)  # what SQLite makes beside it is as private
            connection = sqlite3.connect(self._path, timeout=0, check_same_thread=False)
            try:
                _prepare(connection, self._max_pages)
            except sqlite3.Error:
                connection.close()
                raise
            self._connection = connection
        return self._connection


def _prepare(connection: sqlite3.Connection, max_pages: int) -> None:
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA max_page_count = {max_pages}")
    connection.executescript(_SCHEMA)


class AccountFolder:
    """The files of all workers of a host. Blocking; every method may raise AccountsError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def names(self) -> list[str]:
        """Which there are, of workers that live and of those that don't."""
        return sorted(path.name for path in self._directory.glob(f"*{SUFFIX}"))

    def read(self, name: str) -> list[bytes] | None:
        """The records in a file; None while its worker lives."""
        uri = f"{(self._directory / name).absolute().as_uri()}?mode=rw"
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=0)) as found:
                found.execute("PRAGMA locking_mode = EXCLUSIVE")
                tables = found.execute("SELECT name FROM sqlite_schema WHERE name = 'accounts'")
                if tables.fetchone() is None:  # nothing was ever written
                    return []
                return [record for (record,) in found.execute("SELECT record FROM accounts")]
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
                return None
            raise AccountsError(f"{type(error).__name__}: {error}") from None

    def remove(self, name: str) -> None:
        """Removes a file."""
        _remove(self._directory / name)

    def put_aside(self, name: str) -> None:
        """Renames a file that can't be read, so that a person can look at it."""
        path = self._directory / name
        try:
            path.rename(path.with_name(f"{name}.damaged"))
        except OSError as error:
            raise AccountsError(f"{type(error).__name__}: {error.strerror}") from None
        _remove(path)


def _remove(path: Path) -> None:
    """Removes a file and what SQLite keeps beside it."""
    try:
        for suffix in ("", *_BESIDE):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise AccountsError(f"{type(error).__name__}: {error.strerror}") from None
