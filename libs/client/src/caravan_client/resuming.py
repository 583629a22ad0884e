"""When a stream whose connection broke is resumed, from where, and for how long that is tried.

Knows what was received; sends nothing.
"""

import random
import time
from collections.abc import Callable

from caravan_client.errors import CallCancelledError, CaravanError, InternalError, UnavailableError
from caravan_client.generation import Completed, Delta, Event, Finished, Started
from caravan_client.operations.operation import Operation
from caravan_client.operations.streams import cancel_generate, resume_generate

RESUMABLE = (("x-caravan-resumable", "1"),)
"""Metadata that asks the gateway for a stream which can be resumed."""

# As long as engines keep a stream by default.
_MOST_S = 60.0
_FIRST_PAUSE_S, _MOST_PAUSE_S = 0.1, 2.0


class Recovery:
    """What one stream needs to go on after its connection broke. Belongs to its reader.

    Args:
        is_wanted: whether the stream was begun as one that can be resumed.
        clock: monotonic, in seconds.
    """

    def __init__(self, *, is_wanted: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._is_wanted = is_wanted
        self._clock = clock
        self._started: Started | None = None
        self._counts: dict[int, int] = {}
        self._finished: set[int] = set()
        self._is_over = False
        self.is_complete = False
        """Whether the last event came: what ends the call after it says nothing of the answer."""
        self._break: CaravanError | None = None  # the first since there was something new
        self._broken_at_s = 0.0
        self._pause_s = _FIRST_PAUSE_S

    def is_news(self, event: Event) -> bool:
        """Takes in an event; returns whether the reader doesn't have it yet."""
        match event:
            case Started():
                if self._started is not None:
                    return False  # resumed streams say it again
                self._started = event
            case Delta():
                self._counts[event.choice_index] = event.token_offset + len(event.token_ids)
            case Finished():
                self._finished.add(event.choice_index)
            case Completed():
                self._is_over = self.is_complete = True
        self._break, self._pause_s = None, _FIRST_PAUSE_S
        return True

    def pause_s(self, error: CaravanError, time_left_s: float | None) -> float:
        """Returns after how many seconds to resume a stream that ended with `error`.

        Raises:
            CaravanError: it is not to be resumed; `error`, or how the connection broke before.
        """
        if self._started is None or self._is_over or not self._is_wanted:
            raise error
        if not _is_broken(error):
            self._is_over = True
            raise self._break or error
        if self._break is None:
            self._break, self._broken_at_s = error, self._clock()
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _MOST_PAUSE_S)
        pause_s = max(pause_s * random.uniform(0.5, 1), error.retry_after_s or 0)  # noqa: S311
        most_s = self._broken_at_s + _MOST_S - self._clock()
        if pause_s > min(most_s, most_s if time_left_s is None else time_left_s):
            self._is_over = True
            raise self._break
        return pause_s

    def resumption(self) -> Operation[Event | None]:
        """The call that asks for the rest."""
        started = self._begun()
        received = [
            (self._counts.get(index, 0), index in self._finished)
            for index in range(max((*self._counts, *self._finished), default=-1) + 1)
        ]
        return resume_generate(started.model, started.request_id, received)

    @property
    def request_id(self) -> str:
        """The name of the call that began the stream."""
        return self._begun().request_id

    def farewell(self) -> Operation[None] | None:
        """The call that says that the rest isn't wanted; None where there is no rest."""
        if self._started is None or self._is_over or not self._is_wanted:
            return None
        self._is_over = True
        return cancel_generate(self._started.model, self._started.request_id)

    def _begun(self) -> Started:
        if self._started is None:
            raise TypeError("a stream that hasn't begun can't be resumed")
        return self._started


def _is_broken(error: CaravanError) -> bool:
    """Whether the connection broke, or the gateway is on its way down; not what it answered."""
    if isinstance(error, UnavailableError):
        return True
    return not error.details.reason and isinstance(error, CallCancelledError | InternalError)
