"""Who gets seats, and who gives them up for somebody else."""

from collections.abc import Collection, Iterable, Mapping
from math import ceil

from caravan_engine.domain.paging.kv_manager import KvManager
from caravan_engine.domain.scheduling.expected_output import ExpectedOutput
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.domain.sequence import Sequence, SequenceGroup

_LEAST_GROWTH = 8
"""Tokens of each sequence that are left free when one more is seated, whatever is expected."""


class Admission:
    """Judges by what is running; changes nothing. Owned by the decode thread.

    One more is seated where the cells last for what those who stay are expected to generate:
    whoever begins and must be parked only takes time from the others. What is expected may be
    wrong, then somebody is parked; where parked pages have no place everybody's greatest length is
    left free instead.

    Args:
        limits: What may be promised.
        kv: What sequences have in the cells.
        outputs: What they are expected to generate.
    """

    def __init__(self, limits: SchedulerLimits, kv: KvManager, outputs: ExpectedOutput) -> None:
        self._limits = limits
        self.kv = kv
        self._outputs = outputs

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
        return sum(map(self.kv.needs.exclusive, group.live))

    def _fits_beside(
        self, group: SequenceGroup, running: Collection[Sequence], *, freed_cells: int
    ) -> bool:
        if len(running) + len(group.live) > self._limits.num_seats:
            return False
        if not running:
            return True  # the limits let nobody in who doesn't fit alone
        together = (*running, *group.live)
        free = self.kv.num_free + self.kv.num_idle + freed_cells
        free -= sum(map(self.kv.needs.missing, together))
        return self._lasts(free, together, group.request.priority)

    def _lasts(self, free: int, together: Collection[Sequence], priority: int) -> bool:
        """Whether so many cells are enough for what sequences will generate.

        Those who would be parked before one of `priority` need no more than to go on for now, and
        what they have counts as free for the others.
        """
        if not self.kv.can_park:
            return sum(map(_most_growth, together)) <= free
        if sum(map(_least_growth, together)) > free:
            return False
        yielding = [each for each in together if _yields(each, priority)]
        lasting = [each for each in together if not _yields(each, priority)]
        growths = {each: self._growth(each) for each in lasting}
        free += sum(map(self.kv.needs.freed_by, yielding))
        return sum(growths.values()) <= free or self._peak(growths) <= free

    def _growth(self, sequence: Sequence) -> int:
        expected = max(_LEAST_GROWTH, ceil(self._outputs.remaining(sequence)))
        return min(expected, _most_growth(sequence))

    def _peak(self, growths: Mapping[Sequence, int]) -> int:
        """Returns the most cells that will be taken at a time, if all grow a token a step.

        Just before one ends: all that are left have grown as much as it did, and what those before
        it had is free. The idea is that of Gong et al., *Past-Future Scheduler for LLM Serving
        under SLA Guarantees*.
        """
        peak, freed, num_left = 0, 0, len(growths)
        for sequence in sorted(growths, key=growths.__getitem__):
            peak = max(peak, num_left * growths[sequence] - freed)
            freed += growths[sequence] + self.kv.needs.freed_by(sequence)
            num_left -= 1
        return peak


def _most_growth(sequence: Sequence) -> int:
    return sequence.max_tokens - len(sequence.tokens)


def _least_growth(sequence: Sequence) -> int:
    return min(_LEAST_GROWTH, _most_growth(sequence))


def _yields(sequence: Sequence, priority: int) -> bool:
    """Whether a sequence is parked before one of a priority that was just seated."""
    return sequence.paused_since is not None or sequence.group.claim < priority


def groups_of(sequences: Iterable[Sequence]) -> list[SequenceGroup]:
    """Returns the requests of sequences, in order of admission."""
    return list(dict.fromkeys(each.group for each in sequences))
