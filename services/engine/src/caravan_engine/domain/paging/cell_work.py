"""Collects what the next step does to the cells, and follows it in the map of them."""

from collections.abc import Sequence

from caravan_engine.domain.paging.cell_map import CellMap
from caravan_engine.domain.paging.moves import Export, Import, Move, Release, Relocate, Share, Wipe
from caravan_engine.domain.paging.page_image import PageImage, PageInfo


class CellWork:
    """Whoever plans a move does it here, so that the map is always that of after the plan.

    Owned by the decode thread.

    Args:
        cells: The map, which from now on is changed by nobody else but for computed tokens.
        scratch: The sequence id through which images are restored.
    """

    def __init__(self, cells: CellMap, scratch: int) -> None:
        self.cells = cells
        self._scratch = scratch
        self._moves: list[Move] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing is planned."""
        return not self._moves

    def take_moves(self) -> tuple[Move, ...]:
        """Returns what was planned since the last call, in order."""
        moves = tuple(self._moves)
        self._moves.clear()
        return moves

    def release(self, seq_id: int, start: int = 0, end: int | None = None) -> None:
        """Frees positions of a sequence, all by default."""
        self.cells.release(seq_id, start, end)
        self._moves.append(Release(seq_id, start, end))

    def share(self, source: int, target: int, start: int, end: int) -> None:
        """Gives a sequence positions of another one, without a copy."""
        self.cells.share(source, target, start, end)
        self._moves.append(Share(source, target, start, end))

    def export(self, seq_id: int, info: PageInfo) -> None:
        """Wants a copy of a page."""
        self._moves.append(Export(seq_id, info))

    def restore(self, image: PageImage, seq_id: int, start: int, end: int) -> None:
        """Puts positions of an image into new cells; for a moment the whole image needs some."""
        info = image.info
        self.cells.take(self._scratch, info.start, len(info.tokens))
        self.cells.share(self._scratch, seq_id, start, end)
        self.cells.release(self._scratch)
        self._moves.append(Import(image, seq_id, start, end))

    def wipe(self) -> None:
        """Zeroes the memory of all cells, of which nobody may have any."""
        self.cells.reset()
        self._moves.append(Wipe())

    def relocate(self, seq_ids: Sequence[int], start: int, end: int) -> None:
        """Moves positions that all of `seq_ids` share to the lowest free cells."""
        for seq_id in seq_ids:
            self.cells.release(seq_id, start, end)
        self.cells.take(self._scratch, start, end - start)
        for seq_id in seq_ids:
            self.cells.share(self._scratch, seq_id, start, end)
        self.cells.release(self._scratch)
        self._moves.append(Relocate(tuple(seq_ids), start, end))
