"""How much of given texts is stored."""

from collections.abc import Iterable

from caravan_engine.domain.paging.page_store import PageStore
from caravan_engine.domain.paging.prefix_tree import Tokens


def stored_lengths(store: PageStore | None, texts: Iterable[tuple[bytes, Tokens]]) -> list[int]:
    """Returns how many tokens of each text's beginning lie anywhere; asking uses nothing.

    Args:
        store: Of the worker; None stores nothing.
        texts: Each with the root of its tenant.
    """
    if store is None:
        return [0 for _ in texts]
    return [_end_of(store, root, tokens) for root, tokens in texts]


def _end_of(store: PageStore, root: bytes, tokens: Tokens) -> int:
    matches = store.tree.match(root, tokens)
    return matches[-1].end if matches else 0
