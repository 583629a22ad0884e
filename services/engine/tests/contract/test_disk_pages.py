"""The disk tier as the decode thread sees it: `PageDisk` over real files."""

import itertools
import os
import random
import stat
import threading
from dataclasses import replace

import pytest

from caravan_engine.domain.ports import PageLost, PageRead, PageWritten
from caravan_engine.storage.page_files import Codec, PagePacker
from caravan_engine.storage.page_losses import LossCause

MODES = pytest.mark.parametrize("reads_ahead", [True, False], ids=["threads", "at-once"])


def written(*images):
    return [PageWritten(image.info.key) for image in images]


def lost(*images):
    return [PageLost(image.info.key) for image in images]


def file_bytes(image, identity):
    return sum(map(len, PagePacker(identity, Codec.NONE).pack(image, protected=False)))


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


class Gate:
    """Holds whichever thread of a tier notifies next, after its answer is given."""

    def __init__(self, disk):
        self._arrived, self._released = threading.Event(), threading.Event()
        notify = disk.notify

        def held():
            disk.notify = notify
            self._arrived.set()
            assert self._released.wait(20)
            notify()

        disk.notify = held

    def wait(self):
        assert self._arrived.wait(20)

    def open(self):
        self._released.set()


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


def test_another_run_finds_the_pages_each_after_the_one_that_it_continues(open_disk, pages):
    chain, other = pages.chain(4), pages.image(tenant="other")
    disk = open_disk()
    disk.write(*reversed(chain), other)
    disk.close()

    disk = open_disk()
    found = disk.pages.found()
    assert sorted(found, key=repr) == sorted((each.info for each in [*chain, other]), key=repr)
    places = {info.key: place for place, info in enumerate(found)}
    for before, after in itertools.pairwise(chain):
        assert places[before.info.key] < places[after.info.key]
    assert disk.pages.found() == []
    assert disk.holds(*chain, other) == [*chain, other]


def test_another_run_knows_what_was_protected_and_used(open_disk, pages):
    images = [pages.image() for _ in range(4)]
    size = file_bytes(images[0], pages.identity)
    disk = open_disk()
    disk.write(images[0], protected=True)
    disk.write(*images[1:])
    for used, image in enumerate(images):
        os.utime(disk.file(image), ns=(used, used))
    disk.close()

    disk = open_disk(budget_bytes=2 * size)
    assert disk.holds(*images) == [images[0], images[3]]
    assert disk.pages.stats().lost == {LossCause.DISPLACED: 2, LossCause.UNKNOWN: 2}


def test_pages_that_nobody_can_find_are_removed_at_the_start(open_disk, pages):
    chain = pages.chain(3)
    disk = open_disk()
    disk.write(*chain)
    disk.close()
    disk.file(chain[1]).unlink()

    disk = open_disk()
    assert disk.pages.found() == [chain[0].info]
    assert [path.name for path in disk.folder.glob("*.page")] == [disk.file(chain[0]).name]
    assert disk.pages.stats().lost == {LossCause.UNREACHABLE: 1}


@pytest.mark.parametrize("change", [{"root": bytes(16)}, {"start": 99}], ids=str)
def test_a_page_that_does_not_continue_what_it_names_is_not_found(open_disk, pages, change):
    first, second = pages.chain(2)
    disk = open_disk()
    disk.write(first, replace(second, info=replace(second.info, **change)))
    disk.close()

    assert open_disk().pages.found() == [first.info]


def damage(path, pages):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def truncate(path, pages):
    os.truncate(path, path.stat().st_size - 1)


def empty(path, pages):
    os.truncate(path, 0)


def replace_by_foreign(path, pages):
    identity = replace(pages.identity, model_digest="e" * 64)
    image = pages.image()
    path.write_bytes(b"".join(PagePacker(identity, Codec.NONE).pack(image, protected=False)))


def replace_by_other(path, pages):
    image = pages.image()
    path.write_bytes(b"".join(PagePacker(pages.identity, Codec.NONE).pack(image, protected=False)))


def replace_by_link(path, pages):
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def replace_by_pipe(path, pages):
    path.unlink()
    os.mkfifo(path)


def vanish(path, pages):
    path.unlink()


FAULTS = pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (damage, LossCause.DAMAGED),
        (truncate, LossCause.DAMAGED),
        (empty, LossCause.DAMAGED),
        (replace_by_foreign, LossCause.FOREIGN),
        (replace_by_other, LossCause.DAMAGED),
        (replace_by_link, LossCause.READ_FAILED),
        (replace_by_pipe, LossCause.DAMAGED),
        (vanish, LossCause.MISSING),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)


@MODES
@FAULTS
def test_a_spoilt_file_is_a_lost_page(open_disk, pages, spoil, cause, reads_ahead, caplog):
    disk, (image, other) = open_disk(reads_ahead=reads_ahead), [pages.image(), pages.image()]
    disk.write(image, other)
    spoil(disk.file(image), pages)

    assert disk.holds(image, other) == [other]
    stats = disk.pages.stats()
    assert (stats.num_failed_reads, stats.num_pages, stats.lost) == (1, 1, {cause: 1})
    (record,) = caplog.records
    assert record.cause == cause.value
    assert image.info.key.hex() not in str(record.__dict__)
    assert disk.write(image) == written(image)
    assert disk.holds(image) == [image]


@FAULTS
def test_a_spoilt_file_is_not_found_by_another_run(open_disk, pages, spoil, cause):
    disk, (image, other) = open_disk(), [pages.image(), pages.image()]
    disk.write(image, other)
    disk.close()
    spoil(disk.file(image), pages)

    disk = open_disk()
    if spoil is damage:  # of the memory, which is looked at when it is read
        assert len(disk.pages.found()) == 2
    else:
        assert disk.pages.found() == [other.info]
        assert not os.path.lexists(disk.file(image))
    assert disk.holds(image, other) == [other]


def test_a_folder_in_place_of_a_page_does_no_harm(open_disk, pages):
    disk, image = open_disk(), pages.image()
    disk.close()
    disk.file(image).mkdir()

    disk = open_disk()
    assert disk.pages.found() == []
    assert disk.write(image) == lost(image)


def test_forgotten_pages_are_overwritten_before_they_are_removed(open_disk, pages):
    disk, (image, other) = open_disk(), [pages.image(), pages.image()]
    disk.write(image, other)
    with disk.file(image).open("rb") as file:
        size = disk.file(image).stat().st_size
        disk.pages.forget([image.info.key])

        assert disk.read(image.info.key) == lost(image)
        assert disk.close() == []
        assert file.read() == bytes(size)
    assert not disk.file(image).exists()
    assert disk.file(other).exists()
    assert disk.pages.stats().num_erasing == 0


def test_pages_are_forgotten_while_they_wait_to_be_written(open_disk, pages):
    disk, (first, image) = open_disk(), [pages.image(), pages.image()]
    gate = Gate(disk)
    disk.pages.write(first, protected=False)
    gate.wait()
    disk.pages.write(image, protected=False)
    disk.pages.forget([image.info.key])
    disk.pages.write(image, protected=False)
    disk.pages.forget([first.info.key])
    gate.open()

    assert disk.news(3) == [*written(first), *lost(image), *written(image)]
    assert disk.holds(first, image) == [image]
    disk.close()
    assert not disk.file(first).exists()


def test_a_page_forgotten_while_it_is_being_written_is_lost(open_disk, pages):
    disk, image = open_disk(), pages.image(data=bytes(1_000_000))
    partial = disk.file(image).with_suffix(".partial")
    os.mkfifo(partial)  # holds the writer until somebody reads
    disk.pages.write(image, protected=False)
    with partial.open("rb") as reader:
        disk.pages.forget([image.info.key])
        reader.read()

    assert disk.news(1) == lost(image)
    assert disk.close() == []
    assert not os.path.lexists(disk.file(image))


@pytest.mark.parametrize("kept", [True, False])
def test_who_keeps_an_image_that_is_forgotten_meanwhile_finds_it_as_it_was(open_disk, pages, kept):
    disk, image = open_disk(), pages.image(data=bytearray(b"\x01") * 1_000_000)
    partial = disk.file(image).with_suffix(".partial")
    os.mkfifo(partial)
    disk.pages.write(image, protected=False, kept=kept)
    with partial.open("rb") as reader:
        disk.pages.forget([image.info.key])
        reader.read()

    assert disk.news(1) == lost(image)
    assert set(image.data) == ({1} if kept else {0})


def test_a_pipe_in_a_pages_place_is_removed_when_it_is_forgotten(open_disk, pages):
    disk, image = open_disk(), pages.image()
    disk.write(image)
    replace_by_pipe(disk.file(image), pages)
    disk.pages.forget([image.info.key])
    disk.settle()

    assert not os.path.lexists(disk.file(image))


def test_a_budget_that_shrinks_while_a_page_is_being_written_holds(open_disk, pages):
    disk, image = open_disk(), pages.image(data=bytes(1_000_000))
    partial = disk.file(image).with_suffix(".partial")
    os.mkfifo(partial)
    disk.pages.write(image, protected=True)
    with partial.open("rb") as reader:
        disk.pages.resize(1000)
        reader.read()

    assert disk.news(2) == [*written(image), *lost(image)]


def test_a_page_forgotten_while_it_waits_to_be_read_is_lost(open_disk, pages):
    disk, (first, image) = open_disk(), [pages.image(), pages.image()]
    disk.write(first, image)
    gate = Gate(disk)
    disk.pages.read(first.info.key, priority=0)
    gate.wait()
    disk.pages.read(image.info.key, priority=0)
    disk.pages.forget([image.info.key])
    gate.open()

    assert disk.news(2) == [PageRead(first), *lost(image)]


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


def test_folders_of_other_layouts_of_the_model_are_removed_at_the_start(open_disk, pages):
    other_layout = replace(pages.identity, page_size=32)
    other_model = replace(pages.identity, model_digest="e" * 64)
    held = replace(pages.identity, key_type="q4_0")
    for identity in (other_layout, other_model):
        open_disk(identity=identity).close()
    directory = open_disk(identity=held).directory
    assert directory.is_dir()
    open_disk().close()

    names = {path.name for path in directory.iterdir()}
    assert names == {each.folder_name for each in (pages.identity, other_model, held)}


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


def test_leftovers_of_a_crash_are_removed_at_the_start(open_disk, pages):
    disk, image = open_disk(), pages.image()
    disk.close()
    partial = disk.file(image).with_suffix(".partial")
    partial.write_bytes(b"half")
    open_disk()

    assert not partial.exists()


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
