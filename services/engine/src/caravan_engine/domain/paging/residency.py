"""Which pages that nobody uses may stay in the cells."""

from typing import Protocol

from caravan_engine.domain.paging.page_costs import PageCosts
from caravan_engine.domain.paging.prefix_tree import PageNode


class Residency(Protocol):
    """Judges idle pages. Owned by the decode thread."""

    def lets_in(self, node: PageNode, now: float) -> bool:
        """Whether a page whose last user leaves stays in the cells."""
        ...

    def num_to_free(self, num_used: int, num_cells: int) -> int:
        """Returns how many cells idle pages should give up now."""
        ...


class Nowhere:
    """Nothing idle stays: for snapshots of whole sequences."""

    def lets_in(self, node: PageNode, now: float) -> bool:
        """See `Residency`."""
        del node, now
        return False

    def num_to_free(self, num_used: int, num_cells: int) -> int:
        """See `Residency`."""
        del num_cells
        return num_used


class WithinWatermarks:
    """On a device with memory of its own cells cost nothing until they run out.

    Eviction begins when more than `start` of the cells are used and ends at `stop`; the distance
    keeps it from beginning again at once.
    """

    def __init__(self, start: float, stop: float) -> None:
        if not 0 <= stop < start <= 1:
            raise ValueError("eviction must stop below where it starts")
        self._start = start
        self._stop = stop

    def lets_in(self, node: PageNode, now: float) -> bool:
        """See `Residency`."""
        del node, now
        return True

    def num_to_free(self, num_used: int, num_cells: int) -> int:
        """See `Residency`."""
        if num_used <= self._start * num_cells:
            return 0
        return num_used - int(self._stop * num_cells)


class WhilePaying:
    """On a CPU every used cell slows every step, so only pages in constant use stay.

    Args:
        costs: What a use saves, and what a cell costs.
        watermarks: Bounds them all the same.
        has_host: Whether a page that leaves the cells can be restored from host memory.
    """

    def __init__(self, costs: PageCosts, watermarks: WithinWatermarks, *, has_host: bool) -> None:
        self._has_host = has_host
        self._costs = costs
        self._watermarks = watermarks

    def lets_in(self, node: PageNode, now: float) -> bool:
        """See `Residency`."""
        age_s = max(1.0, now - node.filed_at)
        has_image = self._has_host or node.image is not None
        rate = node.num_hits / age_s
        return self._costs.pays_to_stay(len(node.tokens), rate, has_image=has_image)

    def num_to_free(self, num_used: int, num_cells: int) -> int:
        """See `Residency`."""
        return self._watermarks.num_to_free(num_used, num_cells)
