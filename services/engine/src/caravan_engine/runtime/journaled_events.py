"""Has a journal follow a generation by what is read of it."""

from collections.abc import AsyncIterator

from caravan_engine.domain.events import Completed, Delta, Event, Finished, Started
from caravan_engine.runtime.request_journal import JournalEntry
from caravan_engine.runtime.retained_streams import EventSource


class JournaledEvents:
    """A generation whose events are reported as they are read; see `EventSource`.

    It is over in the journal when its events are, however they end, and when it is closed.
    """

    def __init__(self, source: EventSource, entry: JournalEntry) -> None:
        self._source = source
        self._entry = entry

    async def __aiter__(self) -> AsyncIterator[Event]:
        """Yields the events."""
        try:
            async for event in self._source:
                self._report(event)
                yield event
        except Exception:
            self._entry.ended()
            raise

    def close(self) -> None:
        """See `EventSource`."""
        self._source.close()
        self._entry.ended()

    def _report(self, event: Event) -> None:
        match event:
            case Started():
                self._entry.computing(event.cached_tokens)
            case Delta():
                self._entry.left(
                    event.choice_index, event.token_offset, event.token_ids, event.mirostat_mu
                )
            case Finished():
                self._entry.finished(event.choice_index)
            case Completed():
                self._entry.ended()
