"""Who may use how many KV cells."""

from collections.abc import Hashable


class CellLedger:
    """Promises cells before they are needed, so that a decode never runs out of them.

    A sequence is promised its greatest length when it gets a seat. Counting what it uses now would
    admit more, but then somebody innocent has to go when the cells run out.
    """

    def __init__(self, num_cells: int) -> None:
        self.num_cells = num_cells
        self._promised: dict[Hashable, int] = {}

    @property
    def num_free(self) -> int:
        """Cells that nobody was promised."""
        return self.num_cells - sum(self._promised.values())

    def fits(self, num_cells: int) -> bool:
        """Whether so many can be promised now."""
        return num_cells <= self.num_free

    def reserve(self, owner: Hashable, num_cells: int) -> None:
        """Promises cells to a sequence, or to those that share a prefix.

        Raises:
            ValueError: if they aren't there or the owner has some already; the caller asks first.
        """
        if owner in self._promised or not self.fits(num_cells):
            raise ValueError(f"{num_cells} cells can't be promised")
        self._promised[owner] = num_cells

    def release(self, owner: Hashable) -> None:
        """Takes a promise back."""
        del self._promised[owner]
