"""How many cells sequences will take, and give back when they go. Changes nothing."""

from collections.abc import Callable, Mapping

from caravan_engine.domain.paging.cell_map import CellMap
from caravan_engine.domain.paging.place import Place
from caravan_engine.domain.paging.prefix_tree import common_length
from caravan_engine.domain.sequence import Sequence


class CellNeeds:
    """Owned by the decode thread.

    Args:
        places: Of the sequences that have a seat; whoever seats them keeps it up to date.
        cells: What they have.
        root_of: Names the root of a tenant.
        shares: Whether sequences may have cells in common.
    """

    def __init__(
        self,
        places: Mapping[Sequence, Place],
        cells: CellMap,
        *,
        root_of: Callable[[str], bytes],
        shares: bool,
    ) -> None:
        self._places = places
        self._cells = cells
        self._root_of = root_of
        self._shares = shares

    def missing(self, sequence: Sequence) -> int:
        """Cells that a sequence will still take for the tokens that it has."""
        if place := self._places.get(sequence):
            known = place.num_common if place.leader else sequence.num_computed
            return len(sequence.tokens) - max(known, sequence.num_computed)
        root = self._root_of(sequence.request.client.tenant)
        common = [
            common_length(other.tokens, sequence.tokens)
            for other, its in self._places.items()
            if self._shares and its.root == root
        ]
        return len(sequence.tokens) - max(common, default=0)

    def exclusive(self, sequence: Sequence) -> int:
        """Cells that would be free now without a sequence."""
        place = self._places.get(sequence)
        return self._cells.num_exclusive(place.seat) if place else 0

    def freed_by(self, sequence: Sequence) -> int:
        """Cells that will be free when a sequence ends, of those that its tokens take.

        What others wait for it to compute stays with them.
        """
        kept = (place.num_common for place in self._places.values() if place.leader is sequence)
        taken = self.exclusive(sequence) + self.missing(sequence)
        return max(0, taken - max(kept, default=0))
