"""Writes down what generations used so far, so that it is known when their worker is killed.

The file has for each generation the usage record that would be right if the worker died now: from
its beginning, then once a second while it grows, at its end, and until somebody accounts for it.
Nobody ever waits for the disk. Knows no records; `describe` makes them.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from caravan_engine.runtime.retained_streams import RetainedStream

_log = logging.getLogger(__name__)

_GATHER_S = 0.05  # lets what happens in one moment share a transaction, and short calls one row
_NOTE_S = 1.0  # how old the count of a growing generation may be
_RETRY_S = 5.0


class AccountsError(Exception):
    """The file can't be read or written: full, read-only or damaged."""


class AccountStore(Protocol):
    """Where accounts are kept. Blocking; every method may raise AccountsError."""

    def write(self, changes: Mapping[str, bytes | None]) -> None:
        """Puts records in, or removes them where None is given: all or nothing.

        On return they survive the death of the process.
        """
        ...

    def close(self) -> None:
        """Leaves what there is to whoever looks after dead workers."""
        ...


class AccountBook:
    """Implements `StreamAccounts`. Owned by the event loop.

    Args:
        store: From now on used by the book's thread alone.
        describe: Makes the record of a generation as it is; None where it has none.
        note_s: Seconds between notes of generations that grow.
        retry_s: Seconds after which it tries again when the disk takes nothing.
    """

    def __init__(
        self,
        store: AccountStore,
        describe: Callable[[RetainedStream], bytes | None],
        *,
        note_s: float = _NOTE_S,
        retry_s: float = _RETRY_S,
    ) -> None:
        self._store = store
        self._describe = describe
        self._note_s = note_s
        self._retry_s = retry_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="accounts")
        self._changes: dict[str, RetainedStream | bytes | None] = {}
        self._grown: set[RetainedStream] = set()
        self._written: set[str] = set()  # what is in the file, or is being written
        self._arrived = asyncio.Event()
        self._is_failing = False

    def changed(self, stream: RetainedStream) -> None:
        """See `StreamAccounts`."""
        if not stream.is_accounted:
            self._note(stream.origin.usage_id, stream)

    def grew(self, stream: RetainedStream) -> None:
        """See `StreamAccounts`."""
        self._grown.add(stream)

    def settled(self, usage_id: str) -> None:
        """See `StreamAccounts`."""
        if usage_id in self._written:
            self._note(usage_id, None)
        else:
            self._changes.pop(usage_id, None)

    def owed(self, usage_id: str, record: bytes) -> None:
        """The record of a generation that is over; it stays until it is settled."""
        self._note(usage_id, record)

    async def run(self) -> None:
        """Writes until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write_forever())
            group.create_task(self._note_forever())

    async def finish(self) -> None:
        """After `run` was cancelled: writes what is left, and closes the file."""
        await self._write()
        try:
            await self._in_thread(self._store.close)
        except AccountsError as error:
            self._report(error)
        self._thread.shutdown(wait=False)

    def _note(self, usage_id: str, what: RetainedStream | bytes | None) -> None:
        self._changes[usage_id] = what
        self._arrived.set()

    async def _note_forever(self) -> None:
        while True:
            await asyncio.sleep(self._note_s)
            grown, self._grown = self._grown, set()
            for stream in grown:
                self.changed(stream)

    async def _write_forever(self) -> None:
        while True:
            await self._arrived.wait()
            await asyncio.sleep(_GATHER_S)
            self._arrived.clear()
            if not await self._write():
                await asyncio.sleep(self._retry_s)
                self._arrived.set()

    async def _write(self) -> bool:
        changes, self._changes = self._changes, {}
        records = {usage_id: self._record_of(what) for usage_id, what in changes.items()}
        new = {key for key, record in records.items() if record is not None} - self._written
        known = self._written
        records = {key: record for key, record in records.items() if record or key in known}
        if not records:
            return True
        self._written |= new
        try:
            await self._in_thread(lambda: self._store.write(records))
        except AccountsError as error:
            self._report(error)
            self._take_back(changes, new)
            return False
        self._written -= {key for key, record in records.items() if record is None}
        self._is_failing = False
        return True

    def _take_back(
        self, changes: Mapping[str, RetainedStream | bytes | None], new: set[str]
    ) -> None:
        """What was not written waits for the next time, but for what is over and never was."""
        self._written -= new
        merged = {**changes, **self._changes}
        self._changes = {
            key: what for key, what in merged.items() if what is not None or key in self._written
        }

    def _record_of(self, what: RetainedStream | bytes | None) -> bytes | None:
        return self._describe(what) if isinstance(what, RetainedStream) else what

    async def _in_thread(self, work: Callable[[], None]) -> None:
        """Runs `work` to its end, also if the caller is cancelled."""
        loop = asyncio.get_running_loop()
        await asyncio.shield(loop.run_in_executor(self._thread, work))

    def _report(self, error: AccountsError) -> None:
        if not self._is_failing:
            detail = "usage of streams would be lost with this worker"
            _log.error("accounts can't be written: " + detail, extra={"detail": str(error)})
        self._is_failing = True
