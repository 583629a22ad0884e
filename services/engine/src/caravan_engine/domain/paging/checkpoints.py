"""Has pages written to disk while their sequences run, so that a restarted worker finds them."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from caravan_engine.domain.paging.page_store import PageStore
from caravan_engine.domain.paging.place import Place, filing_of
from caravan_engine.domain.paging.prefix_tree import PageNode
from caravan_engine.domain.sequence import Sequence


@dataclass(slots=True)
class _Saved:
    """What was filed of a sequence that still runs."""

    num_tokens: int = 0
    nodes: list[PageNode] = field(default_factory=list)


class Checkpoints:
    """Files the pages of running sequences as they fill. Owned by the decode thread.

    A page fills once, so it leaves the cells once: what a sequence would file at its end is
    filed earlier, and the only thing more to do is to write it. The obvious way, a copy of every
    sequence at an interval, would write the same pages again and again. What is not a full page yet
    is computed again after a death; of a parked sequence everything is written.

    Args:
        store: Where pages are filed.
    """

    def __init__(self, store: PageStore) -> None:
        self._store = store
        self._size = store.tree.page_size
        self._saved: dict[Sequence, _Saved] = {}

    @property
    def nodes(self) -> set[PageNode]:
        """The pages of those who run, as far as they were filed."""
        return {node for saved in self._saved.values() for node in saved.nodes}

    def look_at(self, sequence: Sequence, place: Place, now: float) -> None:
        """Files what a sequence has filled since the last look; its cells stay as they are."""
        num_tokens = sequence.num_computed - sequence.num_computed % self._size
        saved = self._saved.get(sequence)
        if num_tokens > (saved.num_tokens if saved else 0):
            nodes = self._store.checkpoint(filing_of(sequence, place, num_tokens), now)
            self._saved[sequence] = _Saved(num_tokens, nodes)

    def parked(self, nodes: Iterable[PageNode], seat: int) -> None:
        """Has everything written that a parked sequence will need; its cells are still there."""
        self._store.save(nodes, seat)

    def left(self, sequence: Sequence) -> None:
        """Forgets a sequence; of one whose memory is doubtful also what was filed before."""
        saved = self._saved.pop(sequence, None)
        if saved and sequence.num_failures:
            for node in saved.nodes:
                self._store.drop(node)
