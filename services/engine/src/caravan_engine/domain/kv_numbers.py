"""What a context's memory looks like at one moment, in numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class KvUnit(StrEnum):
    """What positions are shared, moved and kept by."""

    PAGES = "pages"
    SEQUENCES = "sequences"  # wholes: the model's memory can't be divided, or paging is off


@dataclass(frozen=True, slots=True)
class MoveTimes:
    """What moving pages took."""

    num_exports: int = 0
    exported_tokens: int = 0
    export_s: float = 0.0
    num_imports: int = 0
    imported_tokens: int = 0
    import_s: float = 0.0
    num_relocations: int = 0
    relocated_tokens: int = 0
    relocate_s: float = 0.0

    def __add__(self, other: "MoveTimes") -> "MoveTimes":
        return MoveTimes(
            num_exports=self.num_exports + other.num_exports,
            exported_tokens=self.exported_tokens + other.exported_tokens,
            export_s=self.export_s + other.export_s,
            num_imports=self.num_imports + other.num_imports,
            imported_tokens=self.imported_tokens + other.imported_tokens,
            import_s=self.import_s + other.import_s,
            num_relocations=self.num_relocations + other.num_relocations,
            relocated_tokens=self.relocated_tokens + other.relocated_tokens,
            relocate_s=self.relocate_s + other.relocate_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredPages:
    """Pages that nobody computes on; counts that only grow are those since the start."""

    num_idle: int = 0  # in cells
    num_host: int = 0
    num_host_bytes: int = 0
    num_host_tokens: int = 0
    host_budget_bytes: int = 0
    num_cell_evictions: int = 0
    num_host_evictions: int = 0
    num_coalesced: int = 0
    num_damaged: int = 0

    @property
    def num_evictions(self) -> int:
        """How often a page had to leave cells or host memory."""
        return self.num_cell_evictions + self.num_host_evictions


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskStats:
    """The disk tier."""

    is_usable: bool
    num_pages: int
    num_bytes: int
    budget_bytes: int
    num_writing: int  # accepted, not yet answered
    num_reading: int
    num_erasing: int
    num_written: int
    num_read: int
    num_failed_reads: int
    lost: Mapping[str, int]  # by cause


@dataclass(frozen=True, slots=True, kw_only=True)
class KvSnapshot:
    """Made by the decode thread after each step from counters; nothing is looked through for it."""

    unit: KvUnit = KvUnit.PAGES
    page_size: int = 0  # tokens; 0 with whole sequences
    num_used_cells: int = 0
    num_computing_cells: int = 0  # hold a position of a running sequence
    highest_used_cell: int = 0  # counted from 1
    num_seated: int = 0  # sequences
    stored: StoredPages = StoredPages()
    moves: MoveTimes = MoveTimes()  # of all steps together

    @property
    def num_idle_cells(self) -> int:
        """Cells that only idle pages hold."""
        return self.num_used_cells - self.num_computing_cells

    @property
    def num_cell_pages(self) -> int:
        """Full pages that all cells in use would make; of whole sequences, how many have some."""
        if not self.page_size:
            return self.num_seated
        return -(-self.num_used_cells // self.page_size)
