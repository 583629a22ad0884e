"""Makes a worker's journal of its settings, with what an earlier worker left in it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from caravan_engine.control.settings import WorkerSettings
from caravan_engine.domain.recovery.live_requests import (
    LiveRequest,
    LiveRequests,
    UnexpectedRecordError,
)
from caravan_engine.runtime.request_journal import JournalLimits, RequestJournal
from caravan_engine.storage.journal import JournalFile

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenedJournal:
    """A journal that is being written, and the requests that were live when it was last."""

    journal: RequestJournal
    recovered: Sequence[LiveRequest]


def open_journal(settings: WorkerSettings) -> OpenedJournal | None:
    """Starts the journal; None when there is to be none, or its folder can't be used.

    Blocks while it reads what is there. Whatever is wrong with that is as if it weren't there.
    """
    if not settings.journal.enabled:
        return None
    try:
        file = JournalFile.open(settings.journal_directory, settings.model_digest)
    except OSError as error:
        extra = {"directory": str(settings.journal_directory), "detail": error.strerror}
        _log.error("folder of journals can't be used: requests are not written down", extra=extra)
        return None
    limits = JournalLimits(settings.journal.max_bytes, settings.journal.commit_interval_s)
    recovered = _recovered(file, 2 * limits.max_bytes)
    journal = RequestJournal(file, limits, recovered)
    journal.start()
    return OpenedJournal(journal, recovered)


def _recovered(file: JournalFile, most_bytes: int) -> list[LiveRequest]:
    live = LiveRequests()
    try:
        for record in file.read(most_bytes):
            live.apply(record)
    except UnexpectedRecordError:  # what follows would be wrong too
        _log.error("the journal of requests contradicts itself; its beginning is used")
    except OSError as error:
        extra = {"detail": error.strerror}
        _log.error("the journal of requests can't be read", extra=extra)
    if live:
        _log.info("requests of an earlier worker found", extra={"request_count": len(live)})
    return list(live)
