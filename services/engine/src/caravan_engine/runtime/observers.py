"""Lets several listen to one scheduler."""

from caravan_engine.domain.ports import SchedulerObserver
from caravan_engine.domain.sequence import Sequence, SequenceGroup


class Observers:
    """Implements `domain.ports.SchedulerObserver`: tells each of `listeners`, in their order."""

    def __init__(self, *listeners: SchedulerObserver) -> None:
        self._listeners = listeners

    def admitted(self, group: SequenceGroup, now: float) -> None:
        """A request got its seats."""
        for each in self._listeners:
            each.admitted(group, now)

    def started(self, group: SequenceGroup, now: float) -> None:
        """Its computation begins."""
        for each in self._listeners:
            each.started(group, now)

    def parked(self, group: SequenceGroup, now: float) -> None:
        """A request gave up its seats for a time."""
        for each in self._listeners:
            each.parked(group, now)

    def generated(self, sequence: Sequence, now: float) -> None:
        """A sequence gets a token."""
        for each in self._listeners:
            each.generated(sequence, now)

    def ended(self, group: SequenceGroup, outcome: str, now: float) -> None:
        """A request is over."""
        for each in self._listeners:
            each.ended(group, outcome, now)
