"""Pages that another worker of the same model has written can be had from there."""

import os
from dataclasses import replace

import pytest

from caravan_engine.domain.paging.page_image import full_pages
from caravan_engine.domain.ports import PageFound, PageLost, PageRead

WAIT_S = 20


@pytest.fixture
def two(open_disk, tmp_path):
    """The tiers of two workers of a model, whose folders lie beside each other."""
    return open_disk(tmp_path / "pages" / "0"), open_disk(tmp_path / "pages" / "1")


def adopt(disk, *images):
    disk.pages.adopt([image.info for image in images]).result(timeout=WAIT_S)
    return disk.pages.poll()


def found(*images):
    return [PageFound(image.info) for image in images]


def test_they_are_found_in_order_and_are_read_like_ones_own(two, pages):
    mine, theirs = two
    chain = pages.chain(3)
    theirs.write(*chain)

    assert adopt(mine, *chain) == found(*chain)
    assert mine.read(*(image.info.key for image in chain)) == list(map(PageRead, chain))
    assert mine.pages.stats().num_pages == 3
    assert adopt(mine, *chain) == []  # they are here already


def test_what_follows_a_missing_page_is_not_looked_for(two, pages):
    mine, theirs = two
    chain = pages.chain(3)
    theirs.write(*chain)
    theirs.file(chain[1]).unlink()

    assert adopt(mine, *chain) == found(chain[0])


def test_each_worker_may_forget_them_without_the_other(two, pages):
    mine, theirs = two
    image = pages.image()
    theirs.write(image)
    adopt(mine, image)
    mine.pages.forget([image.info.key])
    mine.settle()

    assert theirs.read(image.info.key) == [PageRead(image)]


def test_one_that_is_damaged_is_lost_when_it_is_read(two, pages):
    mine, theirs = two
    image = pages.image()
    theirs.write(image)
    content = bytearray(theirs.file(image).read_bytes())
    content[-1] ^= 1
    theirs.file(image).write_bytes(content)

    assert adopt(mine, image) == found(image)
    assert mine.read(image.info.key) == [PageLost(image.info.key)]


@pytest.mark.parametrize("kind", ["header", "short", "pipe", "link"])
def test_what_is_no_whole_page_is_not_taken(two, pages, kind):
    mine, theirs = two
    image = pages.image()
    theirs.write(image)
    path = theirs.file(image)
    content = path.read_bytes()
    path.unlink()
    match kind:
        case "header":
            path.write_bytes(b"x" + content[1:])
        case "short":
            path.write_bytes(content[:-1])
        case "pipe":
            os.mkfifo(path)
        case "link":
            other = path.with_suffix(".other")
            other.write_bytes(content)
            path.symlink_to(other)

    assert adopt(mine, image) == []
    assert mine.pages.stats().num_pages == 0


def test_those_of_another_model_are_not_looked_at(open_disk, tmp_path, pages):
    identity = replace(pages.identity, model_digest="another")
    mine = open_disk(tmp_path / "pages" / "0", identity=identity)
    theirs = open_disk(tmp_path / "pages" / "1")
    image = pages.image()
    theirs.write(image)

    assert adopt(mine, image) == []


def test_they_count_against_the_budget(open_disk, tmp_path, pages):
    mine = open_disk(tmp_path / "pages" / "0", budget_bytes=10)
    theirs = open_disk(tmp_path / "pages" / "1")
    image = pages.image()
    theirs.write(image)

    assert adopt(mine, image) == [*found(image), PageLost(image.info.key)]
    assert mine.pages.stats().num_bytes == 0


def test_a_folder_that_cannot_be_used_adopts_nothing(open_disk, tmp_path, pages):
    (tmp_path / "pages").write_text("in the way")
    assert adopt(open_disk(tmp_path / "pages" / "0"), pages.image()) == []


def test_full_pages_are_those_that_a_worker_writes(pages):
    chain = pages.chain(3)
    size = pages.identity.page_size
    tokens = [token for image in chain for token in image.info.tokens]
    expected = [image.info for image in chain]
    assert full_pages(chain[0].info.root, [*tokens, 1], size) == expected
