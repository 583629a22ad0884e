"""What the domain needs from outside."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from caravan_telemetry.domain.request_record import RequestRecord, TokenCounts
from caravan_telemetry.domain.span_record import SpanRecord


class RequestStore(Protocol):
    """Keeps request records, each id once. Blocking; used by one thread at a time."""

    def provisional(self, ids: Collection[str]) -> Mapping[str, TokenCounts]:
        """The tokens of those of the records that are stored and may be replaced.

        Raises:
            StoreUnavailableError: nobody knows.
        """
        ...

    def add(
        self,
        records: Sequence[RequestRecord],
        received_time_ms: int,
        *,
        replaced: Collection[str] = (),
    ) -> Collection[str]:
        """Stores in one transaction what is new, and returns the ids of that.

        On return the new records survive a crash. `records` hold each id once; an id that is
        stored already keeps its first record, unless it is to be `replaced`.

        Raises:
            StoreUnavailableError: nothing was stored.
        """
        ...

    def remove_received_before(self, time_ms: int, *, limit: int) -> int:
        """Removes up to `limit` of the oldest records received before, and returns how many.

        Raises:
            StoreUnavailableError: nothing was removed.
        """
        ...


class UsageMeter(Protocol):
    """Counts what happened to request records. Called on the thread that stores."""

    def stored(self, record: RequestRecord) -> None:
        """A record was stored."""
        ...

    def replaced(self, record: RequestRecord, before: TokenCounts) -> None:
        """A record took the place of a provisional one."""
        ...

    def repeated(self, count: int) -> None:
        """So many records had been stored before."""
        ...

    def removed(self, count: int) -> None:
        """So many records were over their age and were removed."""
        ...


class SpanStore(Protocol):
    """Keeps spans, each once. Blocking; used by one thread at a time.

    Every method raises StoreUnavailableError, and has then changed nothing.
    """

    def add(self, spans: Sequence[SpanRecord], received_time_ms: int) -> int:
        """Stores in one transaction what is new, and returns how many that were."""
        ...

    def count(self) -> int:
        """How many there are; walks through all of them."""
        ...

    def of_request(
        self, request_id: str, *, max_traces: int, max_spans: int
    ) -> Sequence[SpanRecord]:
        """All spans of the newest traces that hold a span of the call, by their start."""
        ...

    def remove_received_before(self, time_ms: int, *, limit: int) -> int:
        """Removes up to `limit` of the oldest spans received before, and returns how many."""
        ...

    def remove_oldest(self, count: int) -> int:
        """Removes so many of those that were received first, and returns how many."""
        ...


class SpanMeter(Protocol):
    """Counts what happened to spans. Called on the thread that stores."""

    def stored(self, count: int) -> None:
        """So many were stored."""
        ...

    def removed(self, count: int, cause: str) -> None:
        """So many were removed: for their `age`, or because of their `count`."""
        ...
