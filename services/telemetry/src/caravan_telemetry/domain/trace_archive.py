"""Keeps the spans of calls for a while, within a bound, and finds those of one call."""

from collections.abc import Callable, Sequence

from caravan_telemetry.domain.errors import TraceNotFoundError
from caravan_telemetry.domain.ports import SpanMeter, SpanStore
from caravan_telemetry.domain.span_record import MAX_TRACES, SpanRecord, Trace, trace_of

_MS_PER_HOUR = 3_600_000
# Read for one answer; more than it may hold, because a client's trace has other calls in it.
_MAX_READ_SPANS = 5_000
# Removed beyond the bound, so that not each batch has to remove some.
_SLACK = 0.02


class TraceArchive:
    """Stores, finds and forgets. Blocking; owned by the thread that stores."""

    def __init__(
        self,
        store: SpanStore,
        meter: SpanMeter,
        *,
        max_spans: int,
        retention_h: int,
        now_ms: Callable[[], int],
    ) -> None:
        """Prepares the archive.

        Args:
            store: where spans are.
            meter: counts them.
            max_spans: most that are kept; 0 keeps none.
            retention_h: for how many hours; 0 sets no limit.
            now_ms: milliseconds since 1970.
        """
        self._store = store
        self._meter = meter
        self._max_spans = max_spans
        self._retention_h = retention_h
        self._now_ms = now_ms
        self._num_spans: int | None = None

    def take(self, spans: Sequence[SpanRecord]) -> None:
        """Stores what is new, and forgets the oldest where there are too many.

        Raises:
            StoreUnavailableError: nothing was stored.
        """
        if not self._max_spans or not spans:
            return
        known = self._known()
        added = self._store.add(spans, self._now_ms())
        self._meter.stored(added)
        self._num_spans = known + added
        excess = self._num_spans - self._max_spans
        if excess > 0:
            self._forget(self._store.remove_oldest(excess + int(self._max_spans * _SLACK)), "count")

    def remove_expired(self, *, limit: int) -> int:
        """Removes up to `limit` spans that are over their age, and returns how many.

        Raises:
            StoreUnavailableError: nothing was removed.
        """
        if not self._retention_h:
            return 0
        self._known()
        oldest_ms = self._now_ms() - self._retention_h * _MS_PER_HOUR
        removed = self._store.remove_received_before(oldest_ms, limit=limit)
        self._forget(removed, "age")
        return removed

    def find(self, request_id: str) -> Trace:
        """The trace of a call.

        Raises:
            TraceNotFoundError: no span of it is here.
            StoreUnavailableError: it cannot be read now.
        """
        spans = self._store.of_request(
            request_id, max_traces=MAX_TRACES, max_spans=_MAX_READ_SPANS + 1
        )
        trace = trace_of(request_id, spans)
        if not trace.spans:
            raise TraceNotFoundError(request_id)
        return Trace(trace.spans, trace.truncated or len(spans) > _MAX_READ_SPANS)

    def _known(self) -> int:
        if self._num_spans is None:
            self._num_spans = self._store.count()
        return self._num_spans

    def _forget(self, count: int, cause: str) -> None:
        self._num_spans = max(0, self._known() - count)
        self._meter.removed(count, cause)
