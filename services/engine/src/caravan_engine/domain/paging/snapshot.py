"""Takes the numbers of a context's memory; costs the same however many pages there are."""

from caravan_engine.domain.kv_numbers import KvSnapshot, KvUnit, MoveTimes, StoredPages
from caravan_engine.domain.paging.cell_map import CellMap
from caravan_engine.domain.paging.page_store import PageStore


def snapshot_of(
    cells: CellMap, store: PageStore | None, moves: MoveTimes, *, num_seated: int, shares: bool
) -> KvSnapshot:
    """Returns the numbers of this moment.

    Args:
        cells: Of the context.
        store: Of the pages that nobody computes on.
        moves: What all moves together took.
        num_seated: Sequences with a seat.
        shares: Whether memory is kept by pages.
    """
    return KvSnapshot(
        unit=KvUnit.PAGES if shares else KvUnit.SEQUENCES,
        page_size=store.tree.page_size if store and shares else 0,
        num_used_cells=cells.num_used,
        num_computing_cells=cells.num_computing,
        highest_used_cell=cells.highest_used,
        num_seated=num_seated,
        stored=_stored_pages(store) if store else StoredPages(),
        moves=moves,
    )


def _stored_pages(store: PageStore) -> StoredPages:
    return StoredPages(
        num_idle=len(store.shelf),
        num_host=len(store.host),
        num_host_bytes=store.host.num_bytes,
        num_host_tokens=store.host.num_tokens,
        host_budget_bytes=store.host.budget_bytes,
        num_cell_evictions=store.num_cell_evictions,
        num_host_evictions=store.num_host_evictions,
        num_coalesced=store.num_coalesced,
        num_damaged=store.num_damaged,
    )
