"""Which workers are left alone for a while because their streams broke."""

from dataclasses import dataclass

_LONGEST_DOUBLING = 16


@dataclass(slots=True)
class _Rest:
    until_s: float
    num_breaks: int  # in a row


class CircuitBreakers:
    """One breaker per worker process. Owned by the event loop.

    Only a broken stream opens one: the process or the way to it is gone. What a worker says, also
    of its own faults, may be due to one request, and what clients do never counts. A breaker opens
    for `first_rest_s`, twice as long with each break in a row, at most `max_rest_s`. Then the
    worker is tried by whoever comes; the first event from it closes the breaker.
    """

    def __init__(self, *, first_rest_s: float, max_rest_s: float) -> None:
        self._first_rest_s = first_rest_s
        self._max_rest_s = max_rest_s
        self._rests: dict[str, _Rest] = {}

    def __len__(self) -> int:
        return len(self._rests)

    def is_open(self, worker_id: str, now_s: float) -> bool:
        """Whether the worker is left alone now."""
        rest = self._rests.get(worker_id)
        return rest is not None and now_s < rest.until_s

    def broke(self, worker_id: str, now_s: float) -> None:
        """A stream of the worker broke; others that break with it change nothing."""
        if self.is_open(worker_id, now_s):
            return
        self._forget_old(now_s)
        rest = self._rests.setdefault(worker_id, _Rest(now_s, 0))
        doublings = min(rest.num_breaks, _LONGEST_DOUBLING)
        rest.until_s = now_s + min(self._first_rest_s * 2.0**doublings, self._max_rest_s)
        rest.num_breaks += 1

    def worked(self, worker_id: str) -> None:
        """The worker sent something."""
        self._rests.pop(worker_id, None)

    def _forget_old(self, now_s: float) -> None:
        """Processes that are gone for good leave nothing behind."""
        old = [key for key, rest in self._rests.items() if rest.until_s + self._max_rest_s < now_s]
        for worker_id in old:
            del self._rests[worker_id]
