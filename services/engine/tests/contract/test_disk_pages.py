"""The disk tier as the decode thread sees it: `PageDisk` over real files."""

import itertools
import random
import stat
import threading

import pytest
from disk_answers import MODES, Gate, file_bytes, lost, written

from caravan_engine.domain.ports import PageLost, PageRead
from caravan_engine.storage.page_files import Codec
from caravan_engine.storage.page_losses import LossCause


@MODES
@pytest.mark.parametrize("codec", list(Codec), ids=lambda codec: codec.name)
def test_a_page_that_was_written_can_be_read(open_disk, pages, codec, reads_ahead):
    disk, images = open_disk(codec=codec, reads_ahead=reads_ahead), pages.chain(3)

    assert disk.write(*images) == written(*images)
    assert disk.read(*(image.info.key for image in images)) == list(map(PageRead, images))
    stats = disk.pages.stats()
    assert (stats.num_pages, stats.num_written, stats.num_read) == (3, 3, 3)
    assert stats.num_bytes == sum(disk.file(image).stat().st_size for image in images)
    assert (stats.num_writing, stats.num_reading, stats.lost) == (0, 0, {})


@pytest.mark.parametrize(
    ("settings", "num_threads"), [({"num_readers": 3}, 3), ({"reads_ahead": False}, 0)]
)
def test_there_are_as_many_threads_that_read_as_asked_for(open_disk, settings, num_threads):
    open_disk(**settings)
    readers = [each for each in threading.enumerate() if each.name.startswith("page-reader")]
    assert len(readers) == num_threads


@MODES
def test_what_reading_takes_is_told(open_disk, pages, reads_ahead):
    disk, images = open_disk(reads_ahead=reads_ahead), pages.chain(2)
    disk.write(*images)
    assert all(news.read_s > 0 for news in disk.read(*(image.info.key for image in images)))


@pytest.mark.parametrize("codec", list(Codec))
def test_what_was_read_can_be_zeroed(open_disk, pages, codec):
    disk, image = open_disk(codec=codec), pages.image()
    disk.write(image)
    disk.pages.read(image.info.key, priority=0)
    disk.settle()
    (news,) = disk.pages.poll()
    news.image.zero()
    assert bytes(news.image.data) == bytes(len(image.data))


def test_each_call_has_one_answer_also_when_it_is_repeated(open_disk, pages):
    disk, image = open_disk(), pages.image()

    assert disk.write(image, image) == written(image, image)
    assert disk.read(image.info.key, image.info.key) == [PageRead(image), PageRead(image)]
    assert disk.close() == []


@MODES
def test_a_page_that_nobody_wrote_is_lost(open_disk, pages, reads_ahead):
    disk, image = open_disk(reads_ahead=reads_ahead), pages.image()

    assert disk.read(image.info.key) == lost(image)
    assert disk.pages.stats().lost == {LossCause.UNKNOWN: 1}
    assert disk.pages.stats().num_failed_reads == 1


def test_reads_of_more_priority_come_first(open_disk, pages):
    disk, (first, low, high) = open_disk(), [pages.image() for _ in range(3)]
    disk.write(first, low, high)
    disk.file(first).unlink()
    gate = Gate(disk)
    disk.pages.read(first.info.key, priority=0)
    gate.wait()
    disk.pages.read(low.info.key, priority=1)
    disk.pages.read(high.info.key, priority=2)
    gate.open()

    assert disk.news(3) == [PageLost(first.info.key), PageRead(high), PageRead(low)]


def test_a_folder_that_cannot_be_used_loses_everything_and_says_so_once(
    open_disk, pages, tmp_path, caplog
):
    (tmp_path / "file").write_text("in the way")
    disk, images = open_disk(tmp_path / "file"), pages.chain(2)

    assert disk.write(*images) == lost(*images)
    assert disk.read(images[0].info.key) == lost(images[0])
    disk.pages.forget([images[0].info.key])
    disk.pages.resize(5)
    assert disk.close() == []
    assert not disk.pages.stats().is_usable
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_two_tiers_never_share_a_folder(open_disk, pages):
    disk, image = open_disk(), pages.image()
    disk.write(image)
    second, other = open_disk(), pages.image()

    assert second.pages.found() == []
    assert second.write(other) == lost(other)
    second.close()
    disk.close()
    assert open_disk().pages.found() == [image.info]


def test_a_folder_removed_meanwhile_is_made_again(open_disk, pages):
    disk, image = open_disk(), pages.image()
    for path in disk.folder.iterdir():
        path.unlink()
    disk.folder.rmdir()

    assert disk.write(image) == written(image)
    assert disk.holds(image) == [image]


def test_nobody_else_can_read_pages(open_disk, pages):
    disk, image = open_disk(), pages.image()
    disk.write(image)

    assert stat.S_IMODE(disk.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(disk.file(image).stat().st_mode) == 0o600


def test_the_end_writes_what_it_was_given_and_leaves_nothing_behind(open_disk, pages):
    disk, images = open_disk(num_readers=3), pages.chain(20)
    for image in images:
        disk.pages.write(image, protected=False)
    for image in images:
        disk.pages.read(image.info.key, priority=0)
    disk.close()

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("page-")]
    names = {path.name for path in disk.folder.iterdir()}
    assert names == {"lock", *(disk.file(image).name for image in images)}
    assert len(open_disk().pages.found()) == 20


def test_threads_that_read_write_forget_and_resize_never_lose_count(open_disk, pages):
    rng = random.Random(7)
    images = list(itertools.chain.from_iterable(pages.chain(4) for _ in range(6)))
    size = file_bytes(images[0], pages.identity)
    disk = open_disk(budget_bytes=9 * size, num_readers=3)
    by_key = {image.info.key: image for image in images}
    num_writes = num_reads = 0
    news = []
    for step in range(2000):
        image = rng.choice(images)
        match rng.randrange(10):
            case 0:
                disk.pages.forget([image.info.key])
            case 1 if step % 10 == 0:
                disk.pages.resize(rng.randrange(5, 15) * size)
            case action if action % 2:
                disk.pages.write(image, protected=rng.random() < 0.3)
                num_writes += 1
            case _:
                disk.pages.read(image.info.key, priority=rng.randrange(3))
                num_reads += 1
        if step % 16 == 0:
            disk.settle()
        news += disk.pages.poll()
    disk.settle()
    news += disk.close()
    stats = disk.pages.stats()

    reads = [each.image for each in news if isinstance(each, PageRead)]
    assert reads
    assert all(image == by_key[image.info.key] for image in reads)
    assert len(reads) == stats.num_read
    assert stats.num_read + stats.num_failed_reads == num_reads
    num_lost = sum(stats.lost.values())
    assert stats.num_written + num_lost >= num_writes + stats.num_failed_reads
    assert sum(isinstance(each, PageLost) for each in news) == num_lost
    files = list(disk.folder.glob("*.page"))
    assert stats.num_pages == len(files)
    assert stats.num_bytes == sum(path.stat().st_size for path in files) <= stats.budget_bytes
