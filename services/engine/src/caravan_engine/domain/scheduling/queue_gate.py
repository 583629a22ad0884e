"""Who may begin to wait."""

import threading

from caravan_engine.domain.errors import DrainingError, QueueFullError
from caravan_engine.domain.request import QueuedRequest
from caravan_engine.domain.scheduling.fairness import ClientWeights
from caravan_engine.domain.scheduling.waiting_room import WaitingRoom
from caravan_engine.domain.sequence import SequenceGroup

_MIN_RETRY_S = 0.1
_MAX_RETRY_S = 60.0
_UNKNOWN_RETRY_S = 1.0
_SMOOTHING = 0.2
_DRAINED_SHARE = 0.1


class QueueGate:
    """Bounds the number of waiting requests, justly. Usable from any thread.

    It stands apart from the queue so that a refusal doesn't have to wait for the step that the
    decode thread is in. For the same reason whoever gives way to a newcomer loses its place here at
    once, and is only *displaced* until the decode thread ends it, or has given it seats before it
    heard of that: then it runs like any other.

    There are never more places than its capacity, nor more displaced requests.

    Args:
        capacity: Places.
        weights: Shares of them.
    """

    def __init__(self, capacity: int, weights: ClientWeights | None = None) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._room = WaitingRoom(weights or ClientWeights())
        self._displaced: set[SequenceGroup] = set()
        self._is_draining = False
        self._left_at: float | None = None
        self._mean_interval_s: float | None = None

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a seat."""
        with self._lock:
            return len(self._room)

    @property
    def num_waiting_by_priority(self) -> dict[int, int]:
        """The same by the priority that they came with; those of which none waits are left out."""
        with self._lock:
            return self._room.num_by_priority()

    def check(self, request: QueuedRequest) -> None:
        """Looks whether a request would get a place now; nobody gives way yet.

        Raises:
            DrainingError: after `close`.
            QueueFullError: without a place, its own or somebody else's.
        """
        with self._lock:
            self._place_for(request)

    def enter(self, group: SequenceGroup) -> SequenceGroup | None:
        """Takes a place in the queue; returns who was displaced for it.

        Raises:
            DrainingError: after `close`.
            QueueFullError: without a place, its own or somebody else's.
        """
        with self._lock:
            displaced = self._place_for(group.request)
            if displaced is not None:
                self._room.remove(displaced)
                self._displaced.add(displaced)
            self._room.add(group)
            return displaced

    def is_displaced(self, group: SequenceGroup) -> bool:
        """Whether a request still waits though its place is somebody else's."""
        with self._lock:
            return group in self._displaced

    def leave(self, group: SequenceGroup, now: float) -> None:
        """A request waits no more, for whatever reason."""
        with self._lock:
            if group in self._displaced:
                self._displaced.remove(group)  # no place becomes free
            else:
                self._room.remove(group)
                self._observe_departure(now)

    def close(self) -> None:
        """Refuses everybody from now on."""
        with self._lock:
            self._is_draining = True

    def refusal(self) -> QueueFullError:
        """Returns what those hear who get no place, or lose theirs."""
        return QueueFullError(capacity=self._capacity, retry_after_s=self.retry_after_s())

    def retry_after_s(self) -> float:
        """Returns how long a tenth of the queue takes to leave, at the measured rate."""
        if self._mean_interval_s is None:
            return _UNKNOWN_RETRY_S
        estimate = self._mean_interval_s * max(1.0, len(self._room) * _DRAINED_SHARE)
        return min(max(estimate, _MIN_RETRY_S), _MAX_RETRY_S)

    def _place_for(self, request: QueuedRequest) -> SequenceGroup | None:
        """Returns who has to give way for a request; None if a place is free."""
        if self._is_draining:
            raise DrainingError
        if len(self._room) < self._capacity:
            return None
        can_displace = len(self._displaced) < self._capacity
        yielding = self._room.yields_to(request) if can_displace else None
        if yielding is None:
            raise self.refusal()
        return yielding

    def _observe_departure(self, now: float) -> None:
        if self._left_at is not None:
            interval = now - self._left_at
            mean = interval if self._mean_interval_s is None else self._mean_interval_s
            self._mean_interval_s = mean + _SMOOTHING * (interval - mean)
        self._left_at = now
