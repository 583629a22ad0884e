"""Time that moves only when a test says so."""


class FakeClock:
    """A monotonic clock in seconds; pass `clock` or `clock.monotonic` where a callable is wanted.

    Not thread-safe: one test owns it.
    """

    def __init__(self, start_s: float = 1_000.0) -> None:
        self._now_s = start_s

    def __call__(self) -> float:
        """Returns the present moment, like `time.monotonic`."""
        return self._now_s

    def monotonic(self) -> float:
        """Returns the present moment, like `time.monotonic`."""
        return self._now_s

    def advance(self, seconds: float) -> float:
        """Moves on by `seconds` and returns the new moment.

        Raises:
            ValueError: for a negative step; monotonic clocks have none.
        """
        if seconds < 0:
            raise ValueError(f"a monotonic clock can't go back by {-seconds} s")
        self._now_s += seconds
        return self._now_s
