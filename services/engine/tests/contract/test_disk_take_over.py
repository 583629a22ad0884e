"""A tier whose folder another worker holds takes it over when that one has ended."""

from caravan_engine.domain.ports import PageFound, PageLost, PageRead, PageWritten


def test_it_goes_without_until_the_other_one_ends_and_then_has_its_pages(open_disk, pages):
    first = open_disk()
    chain = pages.chain(3)
    first.write(*chain)
    second, early = open_disk(), pages.image()
    assert not second.pages.take_over()
    assert second.write(early) == [PageLost(early.info.key)]
    assert not second.pages.stats().is_usable

    first.close()
    assert second.pages.take_over()
    assert second.pages.poll() == [PageFound(image.info) for image in chain]
    assert second.read(*(image.info.key for image in chain)) == list(map(PageRead, chain))
    assert second.write(early) == [PageWritten(early.info.key)]
    assert second.pages.stats().num_pages == 4


def test_it_keeps_what_it_is_told_of_its_budget_meanwhile(open_disk, pages):
    first = open_disk()
    first.write(*pages.chain(3))
    second = open_disk()
    second.pages.resize(0)
    first.close()
    assert second.pages.take_over()
    assert second.pages.poll() == []
    assert second.pages.stats().num_pages == 0


def test_one_that_has_its_folder_has_nothing_to_take_over(open_disk, pages):
    disk = open_disk()
    disk.write(pages.image())
    assert disk.pages.take_over()
    assert disk.pages.poll() == []


def test_a_folder_that_can_never_be_used_is_not_asked_for_again(open_disk, tmp_path):
    (tmp_path / "pages").write_text("in the way")
    disk = open_disk()
    assert disk.pages.take_over()
    assert not disk.pages.stats().is_usable
