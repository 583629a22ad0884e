"""What a sequence leaves to others."""

from dataclasses import dataclass

from caravan_engine.domain.paging.prefix_tree import Tokens


@dataclass(frozen=True, slots=True)
class Filing:
    """What of a text is in the cells of a sequence, to be filed."""

    seq_id: int
    root: bytes
    tokens: Tokens  # those that are computed
    is_of_session: bool = False
