"""Why pages on disk are lost: counted all, logged where somebody may have to do something."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum

_log = logging.getLogger(__name__)

_LOG_INTERVAL_S = 60.0


class LossCause(StrEnum):
    """Why a page isn't on disk, or no longer."""

    DISPLACED = "displaced"  # the budget was needed for others, or has no room for it
    QUEUE_FULL = "queue_full"  # the disk was too slow for all that was to be written
    FORGOTTEN = "forgotten"  # as ordered
    UNKNOWN = "unknown"  # asked for, but never written or lost before
    UNREACHABLE = "unreachable"  # found at the start, but without a page before it
    DAMAGED = "damaged"
    FOREIGN = "foreign"  # of another model, layout or version
    MISSING = "missing"  # somebody removed the file
    READ_FAILED = "read_failed"
    WRITE_FAILED = "write_failed"
    UNUSABLE = "unusable"  # the folder can't be used at all


_LOGGED = frozenset(LossCause) - {
    LossCause.DISPLACED,
    LossCause.QUEUE_FULL,
    LossCause.FORGOTTEN,
    LossCause.UNKNOWN,
    LossCause.UNREACHABLE,
}


class PageFileError(Exception):
    """A page can't be had from its file, or not be brought into one."""

    def __init__(self, cause: LossCause, detail: str = "") -> None:
        super().__init__(detail or cause.value)
        self.cause = cause


class PageLosses:
    """Counts by cause. The caller sees to it that one thread at a time calls `count`.

    `report` may be called by any thread and writes at most one line a minute for each cause; it
    says how often, never which page or what is in it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._counts: Counter[LossCause] = Counter()
        self._reported: dict[LossCause, float] = {}

    @property
    def counts(self) -> Mapping[LossCause, int]:
        """A copy of the counts; causes without losses are left out."""
        return dict(self._counts)

    def count(self, cause: LossCause) -> None:
        """Notes a loss."""
        self._counts[cause] += 1

    def report(self, cause: LossCause, detail: str) -> None:
        """Writes a line, unless there was one for this cause just now, or nobody can help it."""
        now = self._clock()
        last = self._reported.get(cause)
        if cause not in _LOGGED or (last is not None and now - last < _LOG_INTERVAL_S):
            return
        self._reported[cause] = now
        extra = {"cause": cause.value, "detail": detail, "lost_count": self._counts[cause]}
        _log.warning("page on disk lost, it will be computed again", extra=extra)
