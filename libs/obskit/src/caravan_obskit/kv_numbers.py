"""What is counted about the KV memory of workers, as plain values that can be added up."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, TypeVar

_MAX = {"sum": "max"}
"""Marks what doesn't add up: the sum of several is the largest."""

T = TypeVar("T", "KvCounters", "KvGauges")


class PageMove(StrEnum):
    """How a page's memory is copied; the names equal `caravan.engine.v1.PageMoveKind`'s."""

    EXPORT = "export"  # out of cells
    RESTORE = "restore"  # into cells
    RELOCATE = "relocate"  # to lower cells


def _no_moves() -> Mapping[str, float]:
    return dict.fromkeys(PageMove, 0.0)


@dataclass(frozen=True, slots=True)
class KvCounters:
    """What only ever grows, since the start of a process."""

    parkings: int = 0
    moves: Mapping[str, float] = field(default_factory=_no_moves)
    move_seconds: Mapping[str, float] = field(default_factory=_no_moves)
    cell_evictions: int = 0
    host_evictions: int = 0
    coalesced: int = 0
    damaged: int = 0
    disk_reads: int = 0
    disk_read_failures: int = 0
    disk_writes: int = 0
    disk_losses: Mapping[str, float] = field(default_factory=dict)  # by cause

    def __add__(self, other: "KvCounters") -> "KvCounters":
        return _sum(self, other)


@dataclass(frozen=True, slots=True)
class KvGauges:
    """How it stands at this moment."""

    parked_count: int = 0
    waiting: Mapping[str, float] = field(default_factory=dict)  # requests by priority
    units: Mapping[str, float] = field(default_factory=dict)  # workers by what they keep memory by
    page_tokens: int = field(default=0, metadata=_MAX)  # 0: whole sequences
    idle_cells: int = 0
    highest_used_cell: int = field(default=0, metadata=_MAX)
    cell_pages: int = 0
    idle_pages: int = 0
    host_pages: int = 0
    host_bytes: int = 0
    disk_pages: int = 0
    disk_bytes: int = 0
    disk_reads_pending: int = 0
    disk_writes_pending: int = 0

    def __add__(self, other: "KvGauges") -> "KvGauges":
        return _sum(self, other)


def _sum(left: T, right: T) -> T:
    sums: dict[str, Any] = {
        each.name: _merged(
            getattr(left, each.name), getattr(right, each.name), is_largest=bool(each.metadata)
        )
        for each in fields(left)
    }
    return type(left)(**sums)


def _merged(one: Any, two: Any, *, is_largest: bool) -> Any:  # noqa: ANN401 (a number or a mapping)
    if isinstance(one, Mapping):
        return {key: one.get(key, 0) + two.get(key, 0) for key in dict.fromkeys((*one, *two))}
    return max(one, two) if is_largest else one + two
