"""Who gets seats, and who gives them up for somebody else."""

from collections.abc import Collection, Iterable

from caravan_engine.domain.paging.kv_manager import KvManager
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.domain.sequence import Sequence, SequenceGroup

_MARGIN_TOKENS = 8
"""Growth of each sequence that is left free when one more is seated. Little, because parking costs
less than a step; without a place for parked pages everybody's greatest length is left free."""


class Admission:
    """Judges by what is running; changes nothing. Owned by the decode thread."""

    def __init__(self, limits: SchedulerLimits, kv: KvManager) -> None:
        self._limits = limits
        self._kv = kv

    def fits(self, group: SequenceGroup, running: Collection[Sequence]) -> bool:
        """Whether a group can be seated beside those that run."""
        return self._fits_beside(group, running, freed_cells=0)

    def make_way(self, group: SequenceGroup, running: Collection[Sequence]) -> list[SequenceGroup]:
        """Returns whom to park so that a group fits: as few of lower priority as suffice.

        None at all if all of them would not suffice.
        """
        lower = [each for each in groups_of(running) if each.claim < group.request.priority]
        lower.sort(key=self._cost)
        staying, freed, chosen = list(running), 0, list[SequenceGroup]()
        for each in lower:
            chosen.append(each)
            freed += self._exclusive_cells(each)
            staying = [sequence for sequence in staying if sequence.group is not each]
            if self._fits_beside(group, staying, freed_cells=freed):
                return chosen
        return []

    def victim(self, running: Collection[Sequence]) -> SequenceGroup | None:
        """Returns whom to park when cells run out; None if there is nobody beside the last one.

        Those who wait for their reader first, then by priority, then whoever costs least.
        """
        groups = groups_of(running)
        if len(groups) < 2:
            return None
        groups.reverse()  # of equals the one that was seated last
        return min(groups, key=self._cost)

    def _cost(self, group: SequenceGroup) -> tuple[bool, int, int]:
        is_awaited = any(each.paused_since is None for each in group.live)
        return is_awaited, group.claim, self._exclusive_cells(group)

    def _exclusive_cells(self, group: SequenceGroup) -> int:
        return sum(map(self._kv.num_exclusive, group.live))

    def _fits_beside(
        self, group: SequenceGroup, running: Collection[Sequence], *, freed_cells: int
    ) -> bool:
        if len(running) + len(group.live) > self._limits.num_seats:
            return False
        if not running:
            return True  # the limits let nobody in who doesn't fit alone
        together = (*running, *group.live)
        needed = sum(map(self._kv.num_missing, together)) + self._margin(together)
        return needed <= self._kv.num_free + self._kv.num_idle + freed_cells

    def _margin(self, sequences: Iterable[Sequence]) -> int:
        most = _MARGIN_TOKENS if self._kv.can_park else self._limits.num_cells
        return sum(min(most, each.max_tokens - len(each.tokens)) for each in sequences)


def groups_of(sequences: Iterable[Sequence]) -> list[SequenceGroup]:
    """Returns the requests of sequences, in order of admission."""
    return list(dict.fromkeys(each.group for each in sequences))
