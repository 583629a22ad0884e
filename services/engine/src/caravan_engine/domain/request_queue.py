"""Who waits for a seat, and who may begin to wait."""

import heapq
import threading
from collections.abc import Iterator
from itertools import count

from caravan_engine.domain.errors import DrainingError, QueueFullError
from caravan_engine.domain.sequence import SequenceGroup

_MIN_RETRY_S = 0.1
_MAX_RETRY_S = 60.0
_UNKNOWN_RETRY_S = 1.0
_SMOOTHING = 0.2
_DRAINED_SHARE = 0.1


class QueueGate:
    """Bounds the number of waiting requests. Usable from any thread.

    It stands apart from the queue so that a refusal doesn't have to wait for the step that the
    decode thread is in.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._num_waiting = 0
        self._is_draining = False
        self._left_at: float | None = None
        self._mean_interval_s: float | None = None

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a seat."""
        return self._num_waiting

    def enter(self) -> None:
        """Takes a place in the queue.

        Raises:
            DrainingError: after `close`.
            QueueFullError: without a free place.
        """
        with self._lock:
            if self._is_draining:
                raise DrainingError
            if self._num_waiting >= self._capacity:
                raise QueueFullError(capacity=self._capacity, retry_after_s=self.retry_after_s())
            self._num_waiting += 1

    def leave(self, now: float) -> None:
        """Gives a place back, for whatever reason."""
        with self._lock:
            self._num_waiting -= 1
            self._observe_departure(now)

    def close(self) -> None:
        """Refuses everybody from now on."""
        with self._lock:
            self._is_draining = True

    def retry_after_s(self) -> float:
        """Returns how long a tenth of the queue takes to leave, at the measured rate."""
        if self._mean_interval_s is None:
            return _UNKNOWN_RETRY_S
        estimate = self._mean_interval_s * max(1.0, self._num_waiting * _DRAINED_SHARE)
        return min(max(estimate, _MIN_RETRY_S), _MAX_RETRY_S)

    def _observe_departure(self, now: float) -> None:
        if self._left_at is not None:
            interval = now - self._left_at
            mean = interval if self._mean_interval_s is None else self._mean_interval_s
            self._mean_interval_s = mean + _SMOOTHING * (interval - mean)
        self._left_at = now


class RequestQueue:
    """Orders waiting requests: higher priority first, then first come, first served.

    A heap rather than a list per priority, so that the key may become any other order. Removed
    requests stay in the heaps until they surface. Owned by the decode thread.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._arrivals = count()
        self._order: list[tuple[int, int, SequenceGroup]] = []
        self._expiries: list[tuple[float, int, SequenceGroup]] = []
        self._waiting: dict[SequenceGroup, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, group: SequenceGroup) -> bool:
        return group in self._waiting

    def __iter__(self) -> Iterator[SequenceGroup]:
        return iter(tuple(self._waiting))

    def push(self, group: SequenceGroup) -> None:
        """Takes a request in."""
        arrival = next(self._arrivals)
        self._waiting[group] = None
        heapq.heappush(self._order, (-group.request.priority, arrival, group))
        heapq.heappush(self._expiries, (self._expiry(group), arrival, group))

    def peek(self) -> SequenceGroup | None:
        """Returns whose turn it is."""
        while self._order and self._order[0][2] not in self._waiting:
            heapq.heappop(self._order)
        return self._order[0][2] if self._order else None

    def remove(self, group: SequenceGroup) -> None:
        """Takes a request out, wherever it stands."""
        del self._waiting[group]

    def next_expiry(self) -> float | None:
        """Returns the next moment at which somebody has waited too long."""
        while self._expiries and self._expiries[0][2] not in self._waiting:
            heapq.heappop(self._expiries)
        return self._expiries[0][0] if self._expiries else None

    def pop_expired(self, now: float) -> Iterator[SequenceGroup]:
        """Takes those out whose deadline passed or who waited too long."""
        while (expiry := self.next_expiry()) is not None and expiry <= now:
            group = heapq.heappop(self._expiries)[2]
            self.remove(group)
            yield group

    def _expiry(self, group: SequenceGroup) -> float:
        timeout = group.times.arrived + self._timeout_s
        deadline = group.request.deadline
        return timeout if deadline is None else min(timeout, deadline)
