"""Which pages the disk tier gives up when it has no room, over real files."""

import os

from disk_answers import Gate, file_bytes, lost, written

from caravan_engine.domain.ports import PageLost, PageRead
from caravan_engine.storage.page_losses import LossCause


def test_a_disk_that_is_too_slow_loses_pages_instead_of_memory(open_disk, pages):
    disk, images = open_disk(write_queue_bytes=700), [pages.image() for _ in range(4)]
    gate = Gate(disk)
    disk.pages.write(images[0], protected=False)  # 300 bytes, until its thread goes on
    gate.wait()
    for image in images[1:]:
        disk.pages.write(image, protected=False)
    gate.open()

    answers = disk.news(4)
    assert answers == [*written(images[0]), *lost(*images[2:]), *written(images[1])]
    assert disk.pages.stats().lost == {LossCause.QUEUE_FULL: 2}


def test_the_page_unused_longest_gives_way_and_protected_ones_stay(open_disk, pages):
    images = [pages.image() for _ in range(5)]
    size = file_bytes(images[0], pages.identity)
    disk = open_disk(budget_bytes=3 * size)
    disk.write(images[0], protected=True)
    disk.write(*images[1:3])
    disk.read(images[1].info.key)

    disk.pages.write(images[3], protected=False)
    assert disk.news(2) == [*lost(images[2]), *written(images[3])]
    disk.pages.write(images[4], protected=True)
    assert disk.news(2) == [*lost(images[1]), *written(images[4])]
    assert disk.holds(*images) == [images[0], images[3], images[4]]
    assert disk.pages.stats().num_bytes == 3 * size
    assert len(list(disk.folder.glob("*.page"))) == 3


def test_an_unprotected_page_does_not_displace_protected_ones(open_disk, pages):
    images = [pages.image() for _ in range(3)]
    disk = open_disk(budget_bytes=2 * file_bytes(images[0], pages.identity))
    disk.write(*images[:2], protected=True)

    assert disk.write(images[2]) == lost(images[2])
    disk.pages.write(images[2], protected=True)
    assert disk.news(2) == [*lost(images[0]), *written(images[2])]


def test_a_page_never_displaces_the_one_that_it_continues(open_disk, pages):
    chain = pages.chain(2)
    disk = open_disk(budget_bytes=file_bytes(chain[0], pages.identity))
    disk.write(chain[0])

    assert disk.write(chain[1]) == lost(chain[1])
    assert disk.holds(*chain) == [chain[0]]


def test_the_end_of_a_text_gives_way_before_its_beginning(open_disk, pages):
    chain, other = pages.chain(3), pages.image()
    disk = open_disk(budget_bytes=3 * file_bytes(other, pages.identity))
    disk.write(*chain)
    disk.pages.write(other, protected=False)

    assert disk.news(2) == [*lost(chain[2]), *written(other)]


def test_a_page_larger_than_the_budget_displaces_nobody(open_disk, pages):
    small, large = pages.image(data=b"x"), pages.image(data=bytes(5000))
    disk = open_disk(budget_bytes=2000)
    disk.write(small)

    assert disk.write(large) == lost(large)
    assert disk.holds(small) == [small]


def test_the_budget_can_be_changed_at_run_time(open_disk, pages):
    images = [pages.image() for _ in range(4)]
    size = file_bytes(images[0], pages.identity)
    disk = open_disk(budget_bytes=4 * size)
    disk.write(*images)

    disk.pages.resize(2 * size)
    assert disk.news(2) == lost(*images[:2])
    disk.pages.resize(3 * size)
    assert disk.write(images[0]) == written(images[0])
    disk.pages.resize(0)
    assert disk.news(3) == lost(images[2], images[3], images[0])
    assert disk.pages.stats().lost == {LossCause.DISPLACED: 5}
    disk.close()
    assert list(disk.folder.glob("*.page")) == []


def test_a_budget_that_shrinks_while_a_page_is_being_written_holds(open_disk, pages):
    disk, image = open_disk(), pages.image(data=bytes(1_000_000))
    partial = disk.file(image).with_suffix(".partial")
    os.mkfifo(partial)
    disk.pages.write(image, protected=True)
    with partial.open("rb") as reader:
        disk.pages.resize(1000)
        reader.read()

    assert disk.news(2) == [*written(image), *lost(image)]


def test_what_waits_for_a_read_is_not_displaced(open_disk, pages):
    disk, (first, image) = open_disk(), [pages.image(), pages.image()]
    disk.write(first, image)
    gate = Gate(disk)
    disk.pages.read(first.info.key, priority=0)
    gate.wait()
    disk.pages.read(image.info.key, priority=0)
    disk.pages.resize(0)
    gate.open()

    news = disk.news(4)
    assert news.index(PageRead(image)) < news.index(PageLost(image.info.key))
    assert set(disk.pages.stats().lost) == {LossCause.DISPLACED}
