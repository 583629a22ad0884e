"""Pages that are forgotten, also in the midst of being written or read."""

import os

import pytest
from disk_answers import Gate, lost, replace_by_pipe, written

from caravan_engine.domain.ports import PageRead


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
