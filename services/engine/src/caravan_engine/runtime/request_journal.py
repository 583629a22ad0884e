"""Writes down what happens to requests, by a thread of its own, so that a later worker finds it.

Whoever reports only changes what is in memory. The thread gathers for a moment, writes everything
at once and waits for the medium. When the file can't be written the journal gives up and says so,
nobody else notices, and it tries again later from what is in memory.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from caravan_engine.domain.recovery.live_requests import LiveRequest, LiveRequests, cost_of
from caravan_engine.domain.recovery.records import (
    ChoiceFinished,
    ComputationBegan,
    Handle,
    Record,
    RequestBegan,
    RequestEnded,
    TokensLeft,
)

_log = logging.getLogger(__name__)

_PENDING_LIMIT_BYTES = 8 * 2**20
_BYTES_BESIDE = 128  # of a record in memory
_RETRY_S = 10.0
_GARBAGE_LIMIT_S = 10.0
_MOST_GROWTH = 4
_LEAST_GROWTH_BYTES = 256 * 2**10


class Medium(Protocol):
    """Where the journal is kept; see `storage.journal.JournalFile`. For one thread at a time."""

    @property
    def num_bytes(self) -> int:
        """What it takes now."""
        ...

    def rewrite(self, records: Iterator[Record]) -> None:
        """Begins anew with `records`."""
        ...

    def append(self, records: Sequence[Record]) -> None:
        """Adds records; they stay when the process dies."""
        ...

    def discard(self) -> None:
        """Sees to it that nothing is found later."""
        ...

    def close(self) -> None:
        """Leaves what there is to the next worker."""
        ...


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """How much is written, and how often."""

    max_bytes: int = 64 * 2**20  # of the file; half of it may be of live requests
    commit_interval_s: float = 0.05  # for which records are gathered, but for new requests


@dataclass(frozen=True, slots=True)
class JournalStats:
    """The numbers of this moment."""

    is_writing: bool  # False: it has given up for the time being
    num_bytes: int
    num_live: int
    num_failures: int  # how often it gave up
    num_left_out: int  # requests for which there was no room


class RequestJournal:
    """Follows live requests. Methods may be called by any thread and never wait for the disk.

    Args:
        medium: Where it is written; from now on used by the journal's thread alone.
        limits: see there.
        kept: Requests of an earlier run that are still to be found when this run ends.
        clock: Monotonic seconds.
        wall_ms: Wall clock, milliseconds; only told to people.
    """

    def __init__(
        self,
        medium: Medium,
        limits: JournalLimits,
        kept: Sequence[LiveRequest] = (),
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._medium = medium
        self._limits = limits
        self._clock = clock
        self._wall_ms = wall_ms
        self._changed = threading.Condition()  # guards the next eleven
        self._live = LiveRequests()
        self._last_handle = 0
        self._pending: dict[Handle, list[Record]] = {}
        self._num_pending_bytes = 0
        self._must_rewrite = True
        self._has_begun_some = False  # since the last commit; that is not gathered
        self._garbage_since: float | None = None  # when the first request ended that is in the file
        self._is_closing = False
        self._is_writing = True
        self._retry_at: float | None = None
        self._num_failures = self._num_left_out = 0
        for request in kept:
            for record in request.records():
                self._live.apply(record)
            self._last_handle = request.began.handle
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    # ── any thread ──

    def start(self) -> None:
        """Starts the thread, which begins with the requests that were kept."""
        self._thread.start()

    def begin(self, request: bytes) -> "JournalEntry | None":
        """Notes a request; None if there is no room for it."""
        with self._changed:
            record = RequestBegan(Handle(self._last_handle + 1), request, self._wall_ms())
            if not self._has_room(record):
                self._num_left_out += 1
                return None
            self._last_handle = record.handle
            self._has_begun_some = True
            self._take(record)
            return JournalEntry(self, record.handle)

    def report(self, record: Record) -> None:
        """Notes what happens to a request; nothing if the journal doesn't know it any more."""
        with self._changed:
            if self._live.get(record.handle) is None:
                return
            if isinstance(record, RequestEnded):
                self._end(record)
            elif self._has_room(record):
                self._take(record)
            else:
                self._num_left_out += 1
                self._end(RequestEnded(record.handle))

    def live(self) -> list[LiveRequest]:
        """Returns the accounts of the live requests, to be looked at only."""
        with self._changed:
            return list(self._live)

    def stats(self) -> JournalStats:
        """Returns the numbers of this moment."""
        with self._changed:
            return JournalStats(
                is_writing=self._is_writing,
                num_bytes=self._medium.num_bytes,
                num_live=len(self._live),
                num_failures=self._num_failures,
                num_left_out=self._num_left_out,
            )

    def close(self) -> None:
        """Writes what is pending and leaves the rest to the next worker; waits for the disk."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()
        self._medium.close()

    def _has_room(self, record: Record) -> bool:
        return self._live.num_bytes + cost_of(record) <= self._limits.max_bytes // 2

    def _take(self, record: Record) -> None:
        self._live.apply(record)
        self._add(record)

    def _end(self, record: RequestEnded) -> None:
        self._live.apply(record)
        unwritten = self._pending.pop(record.handle, [])
        if unwritten and isinstance(unwritten[0], RequestBegan):
            return  # nothing of it was written, nothing will be
        self._garbage_since = self._clock() if self._garbage_since is None else self._garbage_since
        self._add(record)

    def _add(self, record: Record) -> None:
        if self._must_rewrite:
            self._changed.notify()
            return  # everything will be written anyway
        self._num_pending_bytes += cost_of(record) + _BYTES_BESIDE
        if self._num_pending_bytes > _PENDING_LIMIT_BYTES:
            self._drop_pending()
            self._must_rewrite = True
        else:
            self._pending.setdefault(record.handle, []).append(record)
        self._changed.notify()

    def _drop_pending(self) -> None:
        self._pending.clear()
        self._num_pending_bytes = 0

    # ── the thread ──

    def _run(self) -> None:
        while self._wait():
            self.commit()
        self.commit()

    def _wait(self) -> bool:
        """Sleeps until there is something to write and some more was gathered."""
        with self._changed:
            while not self._is_closing and not self._is_due():
                self._changed.wait(self._sleep_s())
            if not self._must_rewrite:
                self._changed.wait_for(self._cannot_wait, self._limits.commit_interval_s)
            return not self._is_closing

    def _cannot_wait(self) -> bool:
        return self._is_closing or self._has_begun_some

    def _is_due(self) -> bool:
        if self._retry_at is not None:
            return self._clock() >= self._retry_at
        return bool(self._pending) or self._must_rewrite or self._is_garbage_due()

    def _sleep_s(self) -> float | None:
        moments = [self._retry_at]
        if self._retry_at is None and self._garbage_since is not None:
            moments.append(self._garbage_since + _GARBAGE_LIMIT_S)
        wanted = [moment for moment in moments if moment is not None]
        return max(0.0, min(wanted) - self._clock()) if wanted else None

    def _is_garbage_due(self) -> bool:
        """Whether what ended should leave the file: soon, at once when nothing else is in it."""
        if self._garbage_since is None:
            return False
        is_old = self._clock() >= self._garbage_since + _GARBAGE_LIMIT_S
        return is_old or not len(self._live)

    def commit(self) -> None:
        """Writes what is to be written now; after that it would survive the process."""
        with self._changed:
            records = [each for records in self._pending.values() for each in records]
            rewrites = self._must_rewrite or self._is_garbage_due() or self._is_too_long()
            rewrites |= self._is_closing and self._garbage_since is not None
            if not records and not rewrites:
                return
            everything = [each for one in self._live for each in one.records()] if rewrites else []
            self._drop_pending()
            self._must_rewrite = self._has_begun_some = False
            if rewrites:
                self._garbage_since = None
        try:
            if rewrites:
                self._medium.rewrite(iter(everything))
            else:
                self._medium.append(records)
        except Exception as error:  # noqa: BLE001 (whatever it was, what is there is outdated)
            self._give_up(error)
        else:
            self._has_written()

    def _is_too_long(self) -> bool:
        shortest = _MOST_GROWTH * self._live.num_bytes + _LEAST_GROWTH_BYTES
        size = self._medium.num_bytes + self._num_pending_bytes
        return size > min(shortest, self._limits.max_bytes)

    def _has_written(self) -> None:
        with self._changed:
            was_writing, self._is_writing, self._retry_at = self._is_writing, True, None
        if not was_writing:
            _log.info("the journal of requests is written again")

    def _give_up(self, error: Exception) -> None:
        """What can't be kept up to date must not be found later."""
        with self._changed:
            was_writing, self._is_writing = self._is_writing, False
            self._retry_at = self._clock() + _RETRY_S
            self._must_rewrite = True
            self._drop_pending()
            self._num_failures += was_writing
        if was_writing:
            _log.error(
                "the journal of requests can't be written: requests would not survive a restart",
                extra={"detail": _words(error)},
            )
        try:
            self._medium.discard()
        except OSError as again:
            extra = {"detail": _words(again)}
            _log.error("an outdated journal of requests can't be removed", extra=extra)


def _words(error: Exception) -> str:
    """What the system says, without the path."""
    return getattr(error, "strerror", None) or type(error).__name__


class JournalEntry:
    """What to report of one request; by one thread at a time."""

    def __init__(self, journal: RequestJournal, handle: Handle) -> None:
        self._journal = journal
        self._handle = handle

    def computing(self, cached_tokens: int) -> None:
        """It got its seat."""
        self._journal.report(ComputationBegan(self._handle, cached_tokens))

    def left(
        self, choice_index: int, offset: int, tokens: Sequence[int], mirostat_mu: float | None
    ) -> None:
        """Tokens went to the client."""
        self._journal.report(
            TokensLeft(self._handle, choice_index, offset, tuple(tokens), mirostat_mu)
        )

    def finished(self, choice_index: int) -> None:
        """A choice is over."""
        self._journal.report(ChoiceFinished(self._handle, choice_index))

    def ended(self) -> None:
        """Nobody will go on with it; may be called again."""
        self._journal.report(RequestEnded(self._handle))
