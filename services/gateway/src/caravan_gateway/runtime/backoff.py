"""How long to wait before the next attempt."""

import random


class Backoff:
    """Doubles from `first_s` to `max_s`.

    Each wait is shortened at random by up to a half, so that many clients don't come back in step.
    """

    def __init__(self, first_s: float, max_s: float) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._next_s = first_s

    def next_s(self) -> float:
        """Returns the wait before the next attempt, and lengthens the one after."""
        wait_s = self._next_s
        self._next_s = min(2 * wait_s, self._max_s)
        return wait_s * random.uniform(0.5, 1.0)  # noqa: S311 (spreads load, guards nothing)

    def reset(self) -> None:
        """Begins anew after a success."""
        self._next_s = self._first_s
