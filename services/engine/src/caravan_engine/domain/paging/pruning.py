"""Gives up pages on disk on order."""

from caravan_engine.domain.paging.kv_manager import KvManager


def prune(kv: KvManager) -> int:
    """Removes pages from disk that nobody who is here needs; returns how many.

    What parked sequences will need, what running ones have filled, and what is being read stays.
    """
    store = kv.store
    if store is None:
        return 0
    before = store.num_on_disk
    spared = kv.checkpoints.nodes if kv.checkpoints else set()
    for node in tuple(store.tree):
        is_needed = node in spared or node.num_pins > 0 or node.is_being_read
        if node.is_on_disk and not is_needed:
            node.is_on_disk = False
            store.forget_on_disk((node.info.key,))
            store.drop_if_lost(node)
    return before - store.num_on_disk
