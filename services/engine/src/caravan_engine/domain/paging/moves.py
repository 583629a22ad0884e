"""What is done to the cells before a step is computed, in order."""

from dataclasses import dataclass

from caravan_engine.domain.paging.page_image import PageImage, PageInfo


@dataclass(frozen=True, slots=True)
class Release:
    """A sequence forgets positions from `start` on, up to `end` (None: all that follow)."""

    seq_id: int
    start: int = 0
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """Positions [start, end) of `source`, which `target` then has too, without a copy."""

    source: int
    target: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Export:
    """A copy of a page of a sequence is wanted outside the cells; the cells stay as they are."""

    seq_id: int
    info: PageInfo


@dataclass(frozen=True, slots=True)
class Import:
    """Positions [start, end) of an image go into new cells of a sequence."""

    image: PageImage
    seq_id: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Relocate:
    """Positions [start, end), in cells that all of `seq_ids` share, go to the lowest free ones."""

    seq_ids: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Wipe:
    """The memory of all cells is zeroed; nobody has any."""


Move = Release | Share | Export | Import | Relocate | Wipe
