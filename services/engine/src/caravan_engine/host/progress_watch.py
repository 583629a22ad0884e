"""Tells a worker that hangs from one that has nothing to do. Pure: told and asked at intervals."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerActivity:
    """What a worker said of itself last."""

    num_steps: int
    is_stepping: bool
    num_running: int
    num_paused: int  # of those that run: they wait for their clients
    num_waiting: int

    @property
    def has_work(self) -> bool:
        """Whether a step is due. Who waits while all seats are paused waits for clients too."""
        if self.is_stepping or self.num_running > self.num_paused:
            return True
        return self.num_waiting > 0 and not self.num_running


class ProgressWatch:
    """Counts looks at one worker without a sign of life: a new step, or that there is no work.

    A worker that says nothing at all gives no sign either. Looks are counted, not seconds, so that
    a host that was stopped itself, or its whole machine, doesn't take its workers for dead.

    Args:
        timeout_s: How long a worker may give no sign.
        interval_s: Between two looks.
    """

    def __init__(self, timeout_s: float, interval_s: float) -> None:
        self._most_looks = math.ceil(timeout_s / interval_s)
        self._num_steps: int | None = None
        self._gave_sign = True
        self._num_quiet_looks = 0

    def heard(self, activity: WorkerActivity) -> None:
        """The worker said something."""
        if activity.num_steps != self._num_steps or not activity.has_work:
            self._gave_sign = True
        self._num_steps = activity.num_steps

    def look(self) -> bool:
        """Returns whether the worker hangs; called once per interval."""
        self._num_quiet_looks = 0 if self._gave_sign else self._num_quiet_looks + 1
        self._gave_sign = False
        return self._num_quiet_looks >= self._most_looks
