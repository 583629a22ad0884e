"""Who may use how many KV cells."""


class CellLedger:
    """Promises cells before they are needed, so that a decode never runs out of them.

    A sequence is promised its greatest length when it gets a seat. Counting what it uses now would
    admit more, but then somebody innocent has to go when the cells run out.
    """

    def __init__(self, num_cells: int) -> None:
        self.num_cells = num_cells
        self._promised: dict[int, int] = {}

    @property
    def num_free(self) -> int:
        """Cells that nobody was promised."""
        return self.num_cells - sum(self._promised.values())

    def fits(self, num_cells: int) -> bool:
        """Whether so many can be promised now."""
        return num_cells <= self.num_free

    def reserve(self, seat: int, num_cells: int) -> None:
        """Promises cells to the sequence on `seat`.

        Raises:
            ValueError: if they aren't there or the seat has some already; the caller asks first.
        """
        if seat in self._promised or not self.fits(num_cells):
            raise ValueError(f"{num_cells} cells can't be promised to seat {seat}")
        self._promised[seat] = num_cells

    def release(self, seat: int) -> None:
        """Takes a seat's promise back."""
        del self._promised[seat]
