"""What moving and computing take, as it is learned."""

import pytest

from caravan_engine.domain.paging.cell_map import CellMap
from caravan_engine.domain.paging.cell_work import CellWork
from caravan_engine.domain.paging.host_tier import HostTier
from caravan_engine.domain.paging.page_costs import Pace, PageCosts
from caravan_engine.domain.paging.page_image import PageImage, PageInfo, page_key, root_key
from caravan_engine.domain.paging.page_store import PageStore
from caravan_engine.domain.paging.prefix_tree import PrefixTree
from caravan_engine.domain.paging.residency import Nowhere
from caravan_engine.domain.paging.shelf import Shelf
from caravan_engine.domain.paging.tiers import Tiers
from caravan_engine.domain.ports import PageRead


def test_an_interrupted_move_changes_little():
    pace = Pace(2e-6)
    for _ in range(20):
        pace.observe(16 * 3e-6, 16)
    pace.observe(1.0, 16)
    assert pace.s_per_token < 1.25 * 3e-6


def test_what_really_became_slower_is_learned():
    pace = Pace(2e-6)
    for _ in range(60):
        pace.observe(100 * 1e-4, 100)
    assert pace.s_per_token == pytest.approx(1e-4, rel=0.05)


def test_a_page_is_restored_when_that_is_faster_than_computing_it():
    costs = PageCosts()
    costs.stepped(0.0005, 100, is_prompt=True)  # a model that computes as fast as a disk reads
    assert costs.pays_to_import(16, 16, from_disk=False)
    assert not costs.pays_to_import(16, 16, from_disk=True)
    assert not costs.pays_to_import(1, 256, from_disk=False)


def test_a_page_is_read_from_disk_as_long_as_that_was_measured_to_be_faster():
    costs = PageCosts()
    assert costs.pays_to_import(256, 256, from_disk=True)
    for _ in range(100):
        costs.read(2.0, 256)  # computing them takes one second
    assert not costs.pays_to_import(256, 256, from_disk=True)
    assert costs.pays_to_import(256, 256, from_disk=False)


def test_a_disk_that_was_slow_for_a_time_is_tried_again():
    costs = PageCosts()
    for _ in range(100):
        costs.read(2.0, 256)
    num_left = 0
    while not costs.pays_to_import(256, 256, from_disk=True):
        num_left += 1
    assert 20 < num_left < 200


def test_without_learning_nothing_changes_what_pays():
    costs = PageCosts(learns=False)
    costs.read(2.0, 1)
    for _ in range(1000):
        assert not costs.pays_to_import(1, 256, from_disk=True)
    assert costs.pays_to_import(256, 256, from_disk=True)


class DiskWithNews:
    """A disk that has read a page, slowly."""

    def __init__(self, image):
        self._news = [PageRead(image, read_s=0.8)]

    def poll(self):
        news, self._news = self._news, []
        return news


def test_what_reading_took_on_the_disk_is_learned():
    costs, root = PageCosts(), root_key("digest", "acme")
    tokens = tuple(range(16))
    info = PageInfo(root, root, page_key(root, tokens), 0, tokens)
    disk = DiskWithNews(PageImage(info, bytes(16), 0))
    host = HostTier(1000, bytes_per_token=1, spills=True)
    store = PageStore(
        PrefixTree(16),
        tiers=Tiers(host, Shelf(()), disk),
        work=CellWork(CellMap(64, 1), 1),
        residency=Nowhere(),
        costs=costs,
    )
    store.found_on_disk([info])
    guessed = costs.reading.s_per_token
    assert store.hear()
    assert costs.reading.s_per_token > guessed
