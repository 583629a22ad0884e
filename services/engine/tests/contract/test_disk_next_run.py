"""What the disk tier of the next run finds, and what it removes."""

import itertools
import os
from dataclasses import replace

import pytest
from disk_answers import file_bytes

from caravan_engine.storage.page_losses import LossCause


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


def test_leftovers_of_a_crash_are_removed_at_the_start(open_disk, pages):
    disk, image = open_disk(), pages.image()
    disk.close()
    partial = disk.file(image).with_suffix(".partial")
    partial.write_bytes(b"half")
    open_disk()

    assert not partial.exists()
