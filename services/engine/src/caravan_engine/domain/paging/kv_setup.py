"""Puts the parts together that manage a context's memory."""

from dataclasses import dataclass
from functools import partial

from caravan_engine.domain.paging.cell_map import CellMap
from caravan_engine.domain.paging.cell_work import CellWork
from caravan_engine.domain.paging.checkpoints import Checkpoints
from caravan_engine.domain.paging.compaction import Compactor
from caravan_engine.domain.paging.host_tier import HostTier
from caravan_engine.domain.paging.kv_manager import KvManager
from caravan_engine.domain.paging.page_costs import PageCosts
from caravan_engine.domain.paging.page_image import root_key
from caravan_engine.domain.paging.page_store import PageStore
from caravan_engine.domain.paging.prefix_tree import PrefixTree
from caravan_engine.domain.paging.residency import Nowhere, Residency, WhilePaying, WithinWatermarks
from caravan_engine.domain.paging.shelf import Shelf
from caravan_engine.domain.paging.tiers import Tiers
from caravan_engine.domain.ports import PageDisk

_WHOLE_SEQUENCE = 2**31


@dataclass(frozen=True, slots=True, kw_only=True)
class KvOptions:
    """How a context's memory is managed.

    Raises:
        ValueError: if there are more sequence ids than llama.cpp knows.
    """

    num_seats: int
    num_cells: int
    model_digest: str = ""
    page_size: int = 256  # tokens
    can_cut: bool = True  # whether memory can be divided at a position; else only wholes are kept
    coalesces: bool = True
    host_budget_bytes: int = 0
    bytes_per_token: int = 1
    num_shelf_ids: int = 0  # sequence ids that keep idle pages in the cells
    cells_cost_time: bool = True  # whether every used cell slows every step, as on a CPU
    start_watermark: float = 0.85
    stop_watermark: float = 0.70
    learns_costs: bool = True  # whether what moving and computing take is measured
    checkpoints: bool = False  # whether pages are written to disk before anybody needs their memory

    def __post_init__(self) -> None:
        if self.num_seats + self.num_shelf_ids + 1 > 256:
            raise ValueError("more than 256 sequence ids")

    @property
    def scratch(self) -> int:
        """The sequence id through which pages are moved."""
        return self.num_seats + self.num_shelf_ids


def make_kv_manager(options: KvOptions, disk: PageDisk | None = None) -> KvManager:
    """Returns the manager of an empty context."""
    work = CellWork(CellMap(options.num_cells, options.num_seats), options.scratch)
    costs = PageCosts(learns=options.learns_costs)
    size = options.page_size if options.can_cut else _WHOLE_SEQUENCE
    shelf_ids = range(options.num_seats, options.scratch) if options.can_cut else ()
    host = HostTier(
        options.host_budget_bytes,
        bytes_per_token=options.bytes_per_token,
        spills=disk is not None,
    )
    store = PageStore(
        PrefixTree(size, can_cut=options.can_cut),
        tiers=Tiers(host, Shelf(shelf_ids), disk),
        work=work,
        residency=_residency(options, costs),
        costs=costs,
        coalesces=options.coalesces or not options.can_cut,
    )

    compactor = Compactor(work, costs) if options.cells_cost_time and options.can_cut else None
    return KvManager(
        work,
        store,
        costs=costs,
        root_of=partial(root_key, options.model_digest),
        shares=options.can_cut,
        compactor=compactor,
        checkpoints=Checkpoints(store) if options.checkpoints and disk is not None else None,
    )


def _residency(options: KvOptions, costs: PageCosts) -> Residency:
    if not options.can_cut:
        return Nowhere()
    watermarks = WithinWatermarks(options.start_watermark, options.stop_watermark)
    if not options.cells_cost_time:
        return watermarks
    return WhilePaying(costs, watermarks, has_host=options.host_budget_bytes > 0)
