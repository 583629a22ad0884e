"""Files of pages that somebody damaged, replaced or removed."""

import os
from dataclasses import replace

import pytest
from disk_answers import MODES, lost, replace_by_pipe, written

from caravan_engine.storage.page_files import Codec, PagePacker
from caravan_engine.storage.page_losses import LossCause


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
