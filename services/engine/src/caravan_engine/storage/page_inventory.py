"""What an earlier run left on disk, taken over at the start."""

import contextlib
from collections.abc import Iterable

from caravan_engine.domain.paging.page_image import PageInfo
from caravan_engine.storage.page_files import PageHeader
from caravan_engine.storage.page_folder import PageFolder
from caravan_engine.storage.page_index import PageIndex, StoredPage
from caravan_engine.storage.page_losses import LossCause, PageFileError, PageLosses

MOST_FOUND = 10_000
"""Pages of an earlier run that are taken over, those used last; with 256 tokens to a page their
tokens take about 100 MB of memory."""


def take_inventory(folder: PageFolder, index: PageIndex, losses: PageLosses) -> list[PageInfo]:
    """Fills `index` with what is in `folder`, within its budget, and removes the rest.

    Returns:
        The pages in `index`, each after the one that it continues.
    """
    found = []
    for result in folder.scan(MOST_FOUND):
        if isinstance(result, PageFileError):
            losses.count(result.cause)
            losses.report(result.cause, str(result))
        else:
            found.append(result)
    kept = _reachable(header.info for header in found)
    for header in found:
        if header.info.key in kept:
            index.add(_stored(header))
        else:
            _remove(folder, header.info.key, LossCause.UNREACHABLE, losses)
    while index.exceeds() and (victim := index.victim(spares_protected=False)) is not None:
        index.remove(victim)
        _remove(folder, victim.key, LossCause.DISPLACED, losses)
        del kept[victim.key]
    return list(kept.values())


def _reachable(infos: Iterable[PageInfo]) -> dict[bytes, PageInfo]:
    """The pages whose texts are there from their beginning, by key and position."""
    reachable: dict[bytes, PageInfo] = {}
    for info in sorted(infos, key=lambda info: info.start):
        before = reachable.get(info.parent)
        if info.parent == info.root if before is None else _continues(info, before):
            reachable[info.key] = info
    return reachable


def _continues(info: PageInfo, before: PageInfo) -> bool:
    return before.root == info.root and before.end == info.start


def _stored(header: PageHeader) -> StoredPage:
    return StoredPage(header.info.key, header.info.parent, header.file_bytes, header.is_protected)


def _remove(folder: PageFolder, key: bytes, cause: LossCause, losses: PageLosses) -> None:
    losses.count(cause)
    with contextlib.suppress(OSError):  # then it lies there, and is looked at by the next run
        folder.remove(key)
