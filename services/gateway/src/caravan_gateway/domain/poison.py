"""Finds the request that kills workers, so that it alone fails."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum, auto

# A request that is one of several at so many times the deaths is given up all the same.
_COMPANY_FACTOR = 3


@dataclass(frozen=True, slots=True)
class PoisonRules:
    """A request that was aboard at `num_deaths` within `window_s` is suspect; 0 s: none is."""

    num_deaths: int = 2
    window_s: float = 60.0


class Verdict(StrEnum):
    """What the deaths say of a call."""

    CLEAR = auto()
    SUSPECT = auto()  # one of several: it goes on alone among them until it gets further
    POISON = auto()


@dataclass(frozen=True, slots=True)
class _Death:
    worker_id: str
    at_s: float
    was_computed: bool  # whether the worker had said that it computes the call


@dataclass(slots=True, eq=False)
class Passenger:
    """A call, as the watch sees it. Only the watch changes it."""

    verdict: Verdict = Verdict.CLEAR
    deaths: list[_Death] = field(default_factory=list)  # within the window
    is_on_trial: bool = False  # the only suspect that goes on just now
    acquitted_s: float = -math.inf  # passed its trial

    def unexplained(self, *, computed: bool) -> int:
        """How many deaths since its last trial speak against it."""
        return sum(
            death.at_s > self.acquitted_s and (death.was_computed or not computed)
            for death in self.deaths
        )


class PoisonWatch:
    """Knows who is on which worker, and who was at deaths. Owned by the event loop.

    The obvious rule, to fail whoever was in the batch at two deaths, fails all companions of the
    culprit with it: they go on together on the same worker. So only a call that was the *only* one
    at both deaths is poison at once. Several are suspects; each of them goes on while the others
    wait, until it has a new token. If the worker dies in a suspect's trial, it was that one.

    A worker may die before its word arrives that it computes a call. So whoever was sent to it as
    often is no less suspect than those who are known to have been in the batch; and where nobody is
    known to have been there so often, it takes one more death.
    """

    def __init__(self, rules: PoisonRules) -> None:
        self._rules = rules
        self._aboard: dict[str, dict[Passenger, bool]] = {}  # worker id -> is it computed

    def __len__(self) -> int:
        return len(self._aboard)

    def board(self, passenger: Passenger, worker_id: str, *, is_computed: bool) -> None:
        """The worker has the call; `is_computed` says that it is in the batch."""
        self._aboard.setdefault(worker_id, {})[passenger] = is_computed

    def leave(self, passenger: Passenger, worker_id: str) -> None:
        """The worker is done with the call."""
        aboard = self._aboard.get(worker_id)
        if aboard is not None:
            aboard.pop(passenger, None)
            if not aboard:
                del self._aboard[worker_id]

    def begin_trial(self, passenger: Passenger) -> None:
        """A suspect goes on; no other one does until `end_trial`."""
        passenger.is_on_trial = True

    def end_trial(self, passenger: Passenger, acquitted_s: float | None = None) -> None:
        """The trial is over, if there was one; at `acquitted_s` with a new token."""
        if passenger.is_on_trial and acquitted_s is not None:
            passenger.acquitted_s = acquitted_s
        passenger.is_on_trial = False

    def died(self, worker_id: str, now_s: float) -> None:
        """The worker is gone; told by each of its calls, of which the first counts for all."""
        aboard = self._aboard.pop(worker_id, {})
        if self._rules.window_s <= 0:
            return
        since_s = now_s - self._rules.window_s
        affected: list[Passenger] = []
        for passenger, is_computed in aboard.items():
            recent = [death for death in passenger.deaths if death.at_s >= since_s]
            if all(death.worker_id != worker_id for death in recent):  # one is tried again
                is_to_blame = is_computed or passenger.is_on_trial
                recent.append(_Death(worker_id, now_s, is_to_blame))
                affected.append(passenger)
                passenger.verdict = Verdict.CLEAR
            passenger.deaths = recent
        self._judge(self._suspects(affected))

    def _suspects(self, aboard: Collection[Passenger]) -> Sequence[Passenger]:
        num_deaths = self._rules.num_deaths
        is_known = any(
            each.deaths[-1].was_computed and each.unexplained(computed=True) >= num_deaths
            for each in aboard
        )
        least = num_deaths if is_known else num_deaths + 1
        return [each for each in aboard if each.unexplained(computed=False) >= least]

    def _judge(self, suspects: Sequence[Passenger]) -> None:
        on_trial = [each for each in suspects if each.is_on_trial]
        culprits = on_trial or (suspects if len(suspects) == 1 else ())
        most_deaths = _COMPANY_FACTOR * self._rules.num_deaths
        for passenger in suspects:
            is_poison = passenger in culprits or len(passenger.deaths) >= most_deaths
            passenger.verdict = Verdict.POISON if is_poison else Verdict.SUSPECT
