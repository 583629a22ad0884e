"""What a page that could not be restored takes with it."""

import pytest

from caravan_engine.domain.paging.moves import Export, Import, Release, Share
from caravan_engine.domain.paging.page_image import PageImage, PageInfo
from caravan_engine.domain.spoilt import Spoilt, spoilt_by

IMAGE = PageImage(PageInfo(b"", b"", b"image", 0, tuple(range(16))), b"", 0)


def page(key, start, end):
    return PageInfo(b"", b"", key, start, tuple(range(end - start)))


def test_who_shares_from_a_sequence_that_lacks_something_lacks_it_too():
    failed = Import(IMAGE, 0, 0, 16)
    spoilt = spoilt_by(
        [failed], [Share(0, 3, 0, 16), failed, Share(0, 1, 0, 8), Share(0, 2, 16, 20)]
    )
    assert spoilt.seq_ids == {0, 1}  # 3 shared before, 2 what was there
    assert spoilt.lacks(1, 7, 30)
    assert not spoilt.lacks(1, 8, 30)


def test_what_is_released_is_no_longer_missing():
    failed = Import(IMAGE, 0, 0, 16)
    assert not spoilt_by([failed], [failed, Release(0)]).seq_ids
    part = spoilt_by([failed], [failed, Release(0, 4)])
    assert part.lacks(0, 3, 4)
    assert not part.lacks(0, 4, 16)


def test_pages_that_were_copied_without_it_are_named():
    failed, fine = Import(IMAGE, 0, 0, 16), Import(IMAGE, 1, 0, 16)
    copies = [
        Export(0, page(b"a", 0, 16)),
        Export(0, page(b"b", 16, 32)),
        Export(1, page(b"c", 0, 16)),
    ]
    assert spoilt_by([failed], [failed, fine, *copies]).keys == {b"a"}


@pytest.mark.parametrize("where", ["cells", "copies"])
def test_pages_without_their_memory_are_dropped_with_what_follows_them(make_rig, where):
    rig = make_rig(kv={"cells_cost_time": False, "num_shelf_ids": 4})
    for first in (1, 2):
        rig.complete(rig.submit(bytes([first] * 40), max_output=1))
    store = rig.kv.store
    [lost] = [node for node in store.tree if node.tokens[0] == 1 and node.info.start == 16]
    if where == "cells":
        store.spoilt(Spoilt({lost.shelf: {20}}, set()))
    else:
        store.spoilt(Spoilt({}, {lost.info.key}))
    left = {(node.tokens[0], node.info.start) for node in store.tree}
    assert left == {(1, 0), (2, 0), (2, 16), (2, 32)}
    again = rig.submit(bytes([1] * 40), max_output=3)
    rig.complete(again)
    assert again.group.cached_tokens == 16
