"""Where requests come in, and where those end that have to give way to them."""

import threading
from collections.abc import Callable
from functools import partial

from caravan_engine.domain.scheduling.deadline_guard import DeadlineGuard
from caravan_engine.domain.scheduling.queue_gate import QueueGate
from caravan_engine.domain.scheduling.scheduler import Scheduler
from caravan_engine.domain.sequence import SequenceGroup


class Entrance:
    """Decides at once who may wait, and has the decode thread do what follows. For any thread.

    Places are taken and commands posted under one lock, so that commands come in the order of the
    decisions: nobody is to be ended of whom the decode thread hasn't heard, and nobody begins after
    what is posted after `close`. The decode thread never takes that lock.

    Args:
        gate: Has the places.
        guard: Knows which deadlines can't be met.
        scheduler: Owned by the decode thread.
        clock: The engine's.
        post: Has the decode thread do something between two steps; must not wait.
    """

    def __init__(
        self,
        gate: QueueGate,
        guard: DeadlineGuard,
        scheduler: Scheduler,
        *,
        clock: Callable[[], float],
        post: Callable[[Callable[[], object]], None],
    ) -> None:
        self._gate = gate
        self._guard = guard
        self._scheduler = scheduler
        self._clock = clock
        self._post = post
        self._lock = threading.Lock()

    def enter(self, group: SequenceGroup, begin: Callable[[SequenceGroup], object]) -> None:
        """Takes a place in the queue and posts `begin`; somebody else may have to give way.

        Of what has begun elsewhere no estimate takes the rest. Whoever would be late anyway
        displaces nobody.

        Raises:
            QueueFullError: if too many wait already, and nobody has to give way.
            DeadlineUnreachableError: if it would be done too late, as far as measured.
            DrainingError: after `close`.
        """
        self._gate.check(group.request)
        if not group.request.is_begun:
            self._guard.check(group, self._clock())
        with self._lock:
            displaced = self._gate.enter(group)
            self._guard.entered(group)
            self._post(partial(begin, group))
            if displaced is not None:
                self._post(partial(self._end, displaced))

    def close(self) -> None:
        """Refuses everybody from now on."""
        with self._lock:
            self._gate.close()

    def _end(self, displaced: SequenceGroup) -> None:
        """On the decode thread: ends it like a refusal, unless it was seated or ended meanwhile."""
        if self._gate.is_displaced(displaced):
            self._scheduler.end(displaced, self._gate.refusal(), self._clock())
