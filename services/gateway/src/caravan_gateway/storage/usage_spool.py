"""Usage records in SQLite, until telemetry has them.

The write-ahead log makes an append atomic and lets it survive the death of the process; after a
power failure the last moments may be missing. A damaged file is put aside, loudly, not repaired.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from caravan_gateway.domain.errors import SpoolUnusableError
from caravan_gateway.runtime.usage_delivery import SpooledRecord, SpoolError

_log = logging.getLogger("caravan.gateway.usage")
T = TypeVar("T")

_SCHEMA_VERSION = 1
_PAGE_BYTES = 4096
_SCHEMA = """
CREATE TABLE records (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    payload BLOB NOT NULL
) STRICT;
"""


class SqliteSpool:
    """The spool of one gateway; all SQLite work happens on one thread of its own."""

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self._path = path
        self._max_pages = max(16, max_bytes // _PAGE_BYTES)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="usage-spool")
        self._connection: sqlite3.Connection | None = None
        self._num_records = 0

    @property
    def num_records(self) -> int:
        """How many records wait."""
        return self._num_records

    async def open(self) -> None:
        """Opens the file, or begins a new one; what an earlier process left is there again.

        Raises:
            SpoolUnusableError: the folder cannot be written.
        """
        try:
            await self._run(self._open)
        except SpoolError as error:
            raise SpoolUnusableError(str(error)) from None

    async def close(self) -> None:
        """Closes the file. The spool cannot be opened again."""
        await self._run(self._close)
        self._thread.shutdown()

    async def append(self, payloads: Sequence[bytes]) -> None:
        """Adds all or none.

        Raises:
            SpoolError: the disk or the allowed size is full, or the file is damaged.
        """
        await self._run(lambda: self._append(payloads))

    async def oldest(self, limit: int) -> list[SpooledRecord]:
        """Returns the first records.

        Raises:
            SpoolError: the file cannot be read.
        """
        return await self._run(lambda: self._oldest(limit))

    async def remove(self, sequences: Sequence[int]) -> None:
        """Removes records.

        Raises:
            SpoolError: the file cannot be written; they will be delivered again.
        """
        await self._run(lambda: self._remove(sequences))

    async def _run(self, work: Callable[[], T]) -> T:
        """Runs `work` on the spool's thread, to its end even if the caller is cancelled."""
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(future)
        except sqlite3.Error as error:
            raise SpoolError(f"{type(error).__name__}: {error}") from None

    def _open(self) -> None:
        try:
            self._connection = _connect(self._path, self._max_pages)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            self._put_aside()
            self._connection = _connect(self._path, self._max_pages)
        (self._num_records,) = self._database().execute("SELECT count(*) FROM records").fetchone()

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _append(self, payloads: Sequence[bytes]) -> None:
        with self._database() as transaction:
            transaction.executemany(
                "INSERT INTO records (payload) VALUES (?)", [(payload,) for payload in payloads]
            )
        self._num_records += len(payloads)

    def _oldest(self, limit: int) -> list[SpooledRecord]:
        rows = self._database().execute(
            "SELECT sequence, payload FROM records ORDER BY sequence LIMIT ?", (limit,)
        )
        return [SpooledRecord(sequence, payload) for sequence, payload in rows]

    def _remove(self, sequences: Sequence[int]) -> None:
        with self._database() as transaction:
            cursor = transaction.executemany(
                "DELETE FROM records WHERE sequence = ?", [(one,) for one in sequences]
            )
        self._num_records -= cursor.rowcount

    def _database(self) -> sqlite3.Connection:
        if self._connection is None:
            raise sqlite3.ProgrammingError("the spool is closed")
        return self._connection

    def _put_aside(self) -> None:
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        for suffix in ("", "-wal", "-shm"):
            damaged = self._path.with_name(self._path.name + suffix)
            if damaged.exists():
                damaged.rename(damaged.with_name(f"{self._path.name}.damaged-{moment}{suffix}"))
        _log.error("the usage spool is damaged and was put aside", extra={"moment": moment})


def _connect(path: Path, max_pages: int) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=5.0)
    try:
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA max_page_count = {max_pages}")
        (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise sqlite3.DatabaseError("quick_check failed")
        _migrate(connection)
    except sqlite3.Error:
        connection.close()
        raise
    path.chmod(0o600)
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == _SCHEMA_VERSION:
        return
    if version != 0:
        raise sqlite3.DatabaseError(f"schema version {version} is not known")
    connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;")
