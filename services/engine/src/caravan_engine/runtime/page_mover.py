"""Carries out what a plan does to the cells, and measures it."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from caravan_engine.domain.kv_numbers import MoveTimes
from caravan_engine.domain.paging.kv_manager import KvManager
from caravan_engine.domain.paging.moves import Export, Import, Move, Release, Relocate, Share, Wipe
from caravan_engine.domain.paging.page_image import PageImage, PageInfo
from caravan_engine.domain.ports import Backend

Buffer = bytes | memoryview


@dataclass(frozen=True, slots=True)
class PagedMemory:
    """What manages a context's memory, and the checksum that tells whether a page is damaged."""

    kv: KvManager
    checksum: Callable[[Buffer], int]


@dataclass(slots=True)
class Moved:
    """What came of the moves of a step."""

    images: list[PageImage] = field(default_factory=list)
    failed_imports: list[Import] = field(default_factory=list)
    exported_tokens: int = 0
    export_s: float = 0.0
    num_imports: int = 0
    imported_tokens: int = 0
    import_s: float = 0.0
    num_relocations: int = 0
    relocated_tokens: int = 0
    relocate_s: float = 0.0

    def times(self) -> MoveTimes:
        """Returns what it took."""
        return MoveTimes(
            num_exports=len(self.images),
            exported_tokens=self.exported_tokens,
            export_s=self.export_s,
            num_imports=self.num_imports,
            imported_tokens=self.imported_tokens,
            import_s=self.import_s,
            num_relocations=self.num_relocations,
            relocated_tokens=self.relocated_tokens,
            relocate_s=self.relocate_s,
        )


class PageMover:
    """Owned by the decode thread.

    Args:
        backend: Has the cells.
        checksum: Of a page's bytes.
    """

    def __init__(self, backend: Backend, checksum: Callable[[Buffer], int]) -> None:
        self._backend = backend
        self._checksum = checksum

    def run(self, moves: Iterable[Move]) -> Moved:
        """Does one after the other; a page that can't be restored doesn't hinder the rest."""
        moved = Moved()
        for move in moves:
            match move:
                case Release(seq_id, start, end):
                    self._backend.release(seq_id, start, end)
                case Share(source, target, start, end):
                    self._backend.share(source, target, start, end)
                case Export():
                    self._export(move, moved)
                case Import():
                    self._import(move, moved)
                case Relocate():
                    self._relocate(move, moved)
                case Wipe():
                    self._backend.wipe()
        return moved

    def _export(self, move: Export, moved: Moved) -> None:
        started = time.perf_counter()
        data = self._backend.export_page(move.seq_id, move.info.start, move.info.end)
        moved.images.append(PageImage(move.info, data, self._checksum(data)))
        moved.export_s += time.perf_counter() - started
        moved.exported_tokens += len(move.info.tokens)

    def _import(self, move: Import, moved: Moved) -> None:
        started = time.perf_counter()
        image = move.image
        is_sound = self._checksum(image.data) == image.checksum
        if is_sound and self._backend.import_page(image, move.seq_id, move.start, move.end):
            moved.import_s += time.perf_counter() - started
            moved.num_imports += 1
            moved.imported_tokens += len(image.info.tokens)
        else:
            moved.failed_imports.append(move)

    def _relocate(self, move: Relocate, moved: Moved) -> None:
        started = time.perf_counter()
        first, *others = move.seq_ids
        data = self._backend.export_page(first, move.start, move.end)
        for seq_id in move.seq_ids:
            self._backend.release(seq_id, move.start, move.end)
        tokens = (0,) * (move.end - move.start)
        image = PageImage(PageInfo(b"", b"", b"", move.start, tokens), data, 0)
        if not self._backend.import_page(image, first, move.start, move.end):
            raise RuntimeError("cells that were just freed are not there")
        for seq_id in others:
            self._backend.share(first, seq_id, move.start, move.end)
        moved.relocate_s += time.perf_counter() - started
        moved.relocated_tokens += move.end - move.start
        moved.num_relocations += 1
