"""Has the journal follow the generations that their clients can resume."""

from typing import Protocol

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan_engine.domain.request import GenerationRequest
from caravan_engine.runtime.journaled_events import JournaledEvents
from caravan_engine.runtime.request_journal import JournalEntry, RequestJournal
from caravan_engine.runtime.retained_streams import EventSource


class RunFollower(Protocol):
    """Sees the generations that are kept for their clients."""

    def follow(
        self, run: worker_pb.RunRequest, request: GenerationRequest, source: EventSource
    ) -> EventSource:
        """Returns what is to be read in the place of `source`."""
        ...


class NoJournal:
    """Follows nobody."""

    def follow(
        self, run: worker_pb.RunRequest, request: GenerationRequest, source: EventSource
    ) -> EventSource:
        """See `RunFollower`."""
        del run, request
        return source


class RunJournal:
    """Writes down requests as they came in, with the seed that they got, and what left of them."""

    def __init__(self, journal: RequestJournal) -> None:
        self._journal = journal

    def follow(
        self, run: worker_pb.RunRequest, request: GenerationRequest, source: EventSource
    ) -> EventSource:
        """See `RunFollower`."""
        written = worker_pb.RunRequest(
            request=run.request, caller=run.caller, retention=run.retention
        )
        written.request.seed = request.seed
        entry = self._journal.begin(written.SerializeToString())
        if entry is None:
            return source
        _report_earlier(entry, request)
        return JournaledEvents(source, entry)


def _report_earlier(entry: JournalEntry, request: GenerationRequest) -> None:
    """Notes what another worker did of a request."""
    continuation = request.continuation
    if continuation is None:
        return
    entry.computing(continuation.cached_tokens)
    for index, choice in enumerate(continuation.choices):
        if choice.tokens:
            entry.left(index, 0, choice.tokens, choice.mirostat_mu)
        if choice.is_finished:
            entry.finished(index)
