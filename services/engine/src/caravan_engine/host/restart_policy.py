"""When a worker that ended is started again. Pure: told what happened, answers what to do."""

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartRules:
    """Seconds between restarts, and when to give up."""

    initial_backoff_s: float = 0.25
    max_backoff_s: float = 30.0
    stable_after_s: float = 60.0
    max_failed_starts: int = 3


@dataclass(frozen=True, slots=True)
class Life:
    """How one worker process lived; `ready_for_s` is None when it never became ready."""

    ready_for_s: float | None


class RestartPolicy:
    """Counts failed starts and doubles the pause between deaths.

    A start that never became ready counts towards giving up; becoming ready resets that count. A
    life that was ready makes up for earlier deaths by its length, for all of them after
    `stable_after_s`: a worker that dies right after becoming ready must not be restarted in a tight
    loop, and deaths that have nothing to do with each other must not add up.
    """

    def __init__(self, rules: RestartRules) -> None:
        self._rules = rules
        self._num_failed_starts = 0
        self._num_deaths = 0

    @property
    def num_failed_starts(self) -> int:
        """How many starts in a row never became ready."""
        return self._num_failed_starts

    def pause_after(self, life: Life) -> float | None:
        """Returns the seconds to wait before the next start, or None to give up."""
        if life.ready_for_s is None:
            self._num_failed_starts += 1
        else:
            self._num_failed_starts = 0
            self._forgive(life.ready_for_s)
        if self._num_failed_starts >= self._rules.max_failed_starts:
            return None
        self._num_deaths += 1
        doublings = min(self._num_deaths - 1, 30)
        return min(self._rules.initial_backoff_s * 2.0**doublings, self._rules.max_backoff_s)

    def _forgive(self, ready_for_s: float) -> None:
        """Counts as if as many deaths fewer had been, as the life is long."""
        rules = self._rules
        if ready_for_s >= rules.stable_after_s:
            self._num_deaths = 0
            return
        to_the_longest = max(1, math.ceil(math.log2(rules.max_backoff_s / rules.initial_backoff_s)))
        counted = min(self._num_deaths, to_the_longest + 1)  # more make no difference
        forgiven = int((to_the_longest + 1) * ready_for_s / rules.stable_after_s)
        self._num_deaths = max(0, counted - forgiven)
