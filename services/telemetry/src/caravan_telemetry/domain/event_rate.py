"""Events per second over a sliding window."""

from collections import deque
from math import floor


class EventRate:
    """Counts events in whole seconds of a monotonic clock; remembers `window_s` of them."""

    def __init__(self, window_s: int = 10) -> None:
        self._window_s = window_s
        self._seconds: deque[tuple[int, int]] = deque()  # (second, events), ascending

    def add(self, count: int, now_s: float) -> None:
        """Notes that `count` events happened at `now_s`, which never goes back."""
        if not count:
            return
        second = floor(now_s)
        if self._seconds and self._seconds[-1][0] == second:
            count += self._seconds.pop()[1]
        self._seconds.append((second, count))
        self._forget(second)

    def per_second(self, now_s: float) -> float:
        """Returns the mean of the last `window_s` seconds, the one that runs included."""
        self._forget(floor(now_s))
        return sum(count for _, count in self._seconds) / self._window_s

    def _forget(self, second: int) -> None:
        while self._seconds and self._seconds[0][0] <= second - self._window_s:
            self._seconds.popleft()
