"""Sequences whose clients don't read what they generate."""

from collections.abc import Iterable, Iterator

from caravan_engine.domain.errors import ReaderStalledError
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.domain.sequence import Sequence, SequenceGroup


class ReaderWatch:
    """Pauses who isn't read, ends who isn't read for long. Owned by the decode thread.

    A request that was parked while nobody read it is put aside: in the queue it would get seats,
    and be parked again.
    """

    def __init__(self, limits: SchedulerLimits) -> None:
        self._limits = limits
        self._aside: dict[SequenceGroup, None] = {}

    @property
    def put_aside(self) -> tuple[SequenceGroup, ...]:
        """Requests that are parked until they are read."""
        return tuple(self._aside)

    @property
    def put_aside_sequences(self) -> tuple[Sequence, ...]:
        """Their sequences."""
        return tuple(sequence for group in self._aside for sequence in group.live)

    def watch(self, sequence: Sequence, now: float) -> ReaderStalledError | None:
        """Pauses a sequence or lets it go on; returns why it has to end, if it has to."""
        if sequence.output.num_unread < self._limits.max_unread_tokens:
            sequence.paused_since = None
            return None
        if sequence.paused_since is None:
            sequence.paused_since = now
        stalled_s = now - sequence.paused_since
        if stalled_s < self._limits.reader_stall_s:
            return None
        return ReaderStalledError(stalled_s=stalled_s)

    def put_away(self, group: SequenceGroup) -> bool:
        """Puts a parked request aside if all of it waits to be read; returns whether."""
        is_unread = all(each.paused_since is not None for each in group.live)
        if is_unread:
            self._aside[group] = None
        return is_unread

    def come_back(self, now: float) -> Iterator[SequenceGroup]:
        """Yields the requests that are read again, which are no longer aside."""
        for group in self.put_aside:
            for sequence in group.live:
                self.watch(sequence, now)
            if any(each.paused_since is None for each in group.live):
                self.forget(group)
                yield group

    def forget(self, group: SequenceGroup) -> None:
        """The request is over, or in the queue."""
        self._aside.pop(group, None)

    def next_end(self, running: Iterable[Sequence]) -> float | None:
        """Returns the next moment at which one has to end."""
        moments = [
            each.paused_since + self._limits.reader_stall_s
            for each in (*running, *self.put_aside_sequences)
            if each.paused_since is not None
        ]
        moments += [
            each.request.deadline
            for each in self.put_aside_sequences
            if each.request.deadline is not None
        ]
        return min(moments, default=None)
