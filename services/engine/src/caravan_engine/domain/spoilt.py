"""What a page that could not be restored spoils beside the sequence that wanted it."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from caravan_engine.domain.paging.moves import Export, Import, Move, Release, Share


@dataclass(slots=True)
class Spoilt:
    """Who lacks memory after the moves of a step, and which pages were copied without it."""

    missing: dict[int, set[int]] = field(default_factory=dict)  # sequence id -> positions
    keys: set[bytes] = field(default_factory=set)

    @property
    def seq_ids(self) -> Collection[int]:
        """Sequence ids that lack something."""
        return self.missing.keys()

    def lacks(self, seq_id: int, start: int, end: int) -> bool:
        """Whether a sequence lacks some of its positions [start, end)."""
        return not self.missing.get(seq_id, set()).isdisjoint(range(start, end))


def spoilt_by(failed: Iterable[Import], moves: Iterable[Move]) -> Spoilt:
    """Follows through a step's moves what its failed imports did not bring.

    Whoever shared from such a sequence later in the same step has the same hole.
    """
    failed_ids = {id(each) for each in failed}
    spoilt = Spoilt()
    for move in moves:
        match move:
            case Import(_, seq_id, start, end) if id(move) in failed_ids:
                _lose(spoilt, seq_id, range(start, end))
            case Share(source, target, start, end):
                lost = spoilt.missing.get(source, set()).intersection(range(start, end))
                _lose(spoilt, target, lost)
            case Release(seq_id, start, end):
                _forget(spoilt, seq_id, start, end)
            case Export(seq_id, info) if spoilt.lacks(seq_id, info.start, info.end):
                spoilt.keys.add(info.key)
    return spoilt


def _lose(spoilt: Spoilt, seq_id: int, positions: Iterable[int]) -> None:
    if lost := set(positions):
        spoilt.missing.setdefault(seq_id, set()).update(lost)


def _forget(spoilt: Spoilt, seq_id: int, start: int, end: int | None) -> None:
    left = {
        at for at in spoilt.missing.pop(seq_id, ()) if at < start or (end is not None and at >= end)
    }
    if left:
        spoilt.missing[seq_id] = left
