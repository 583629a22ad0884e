"""The places where pages lie."""

from dataclasses import dataclass

from caravan_engine.domain.paging.host_tier import HostTier
from caravan_engine.domain.paging.shelf import Shelf
from caravan_engine.domain.ports import PageDisk


@dataclass(frozen=True, slots=True)
class Tiers:
    """Host memory, cells that nobody computes on, and disk if there is one."""

    host: HostTier
    shelf: Shelf
    disk: PageDisk | None = None
