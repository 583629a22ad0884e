"""A sequence on its seat, as the memory sees it."""

from dataclasses import dataclass, field

from caravan_engine.domain.paging.filing import Filing
from caravan_engine.domain.paging.prefix_tree import PageNode
from caravan_engine.domain.sequence import Sequence


@dataclass(slots=True, eq=False)
class Place:
    """Where a sequence computes, and for whom or what it waits. Owned by the decode thread."""

    seat: int
    root: bytes
    leader: Sequence | None = None  # computes what this one will share
    num_common: int = 0  # how much of it
    awaited: list[PageNode] = field(default_factory=list)  # being read from disk
    has_waited: bool = False  # for the disk: what isn't in memory then is computed
    is_ready: bool = False


def filing_of(sequence: Sequence, place: Place, num_tokens: int) -> Filing:
    """Returns the first tokens of a sequence, which are in its cells, as something to file."""
    tokens = tuple(sequence.tokens[:num_tokens])
    return Filing(place.seat, place.root, tokens, sequence.request.is_of_session)
