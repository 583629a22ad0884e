from dataclasses import dataclass

import pytest

from caravan_rpckit.name_pages import InvalidPageError, page_of


@dataclass(frozen=True)
class Entry:
    name: str


def entries(*names):
    return [Entry(name) for name in names]


def names(page):
    return [entry.name for entry in page]


def test_pages_follow_each_other_without_gap_or_repetition():
    everything = entries(*"abcde")
    seen, token = [], ""
    while True:
        page, token = page_of(everything, 2, token)
        seen.append(names(page))
        if not token:
            break

    assert seen == [["a", "b"], ["c", "d"], ["e"]]


def test_a_full_last_page_has_no_successor():
    assert page_of(entries("a", "b"), 2, "")[1] == ""


def test_an_entry_that_vanishes_moves_no_page():
    _, token = page_of(entries("a", "b", "c"), 2, "")

    assert names(page_of(entries("a", "c"), 2, token)[0]) == ["c"]


def test_without_a_size_a_page_has_a_hundred():
    page, token = page_of(entries(*(f"{number:03}" for number in range(101))), 0, "")

    assert (len(page), bool(token)) == (100, True)


@pytest.mark.parametrize(
    ("size", "token", "field"),
    [(1001, "", "page_size"), (1, "%%%", "page_token"), (1, "/w==", "page_token")],
)
def test_what_we_never_gave_is_refused(size, token, field):
    with pytest.raises(InvalidPageError) as refused:
        page_of(entries("a"), size, token)

    assert refused.value.field_violations[0].field == field
