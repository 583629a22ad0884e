import pytest

from caravan_engine.host.models import ModelState, ModelView
from caravan_engine.rpc.errors import InvalidPageError
from caravan_engine.rpc.paging import page_of


def models(*names):
    return [ModelView(name, (), ModelState.UNLOADED, "", "", 0, None, ()) for name in names]


def names(page):
    return [model.name for model in page]


def test_pages_follow_each_other_without_gap_or_repetition():
    everything = models(*"abcde")
    seen, token = [], ""
    while True:
        page, token = page_of(everything, 2, token)
        seen.append(names(page))
        if not token:
            break

    assert seen == [["a", "b"], ["c", "d"], ["e"]]


def test_a_full_last_page_has_no_successor():
    assert page_of(models("a", "b"), 2, "")[1] == ""


def test_a_model_that_vanishes_moves_no_page():
    _, token = page_of(models("a", "b", "c"), 2, "")

    assert names(page_of(models("a", "c"), 2, token)[0]) == ["c"]


def test_without_a_size_a_page_has_a_hundred():
    page, token = page_of(models(*(f"{number:03}" for number in range(101))), 0, "")

    assert (len(page), bool(token)) == (100, True)


@pytest.mark.parametrize(
    ("size", "token", "field"),
    [(1001, "", "page_size"), (1, "%%%", "page_token"), (1, "/w==", "page_token")],
)
def test_what_we_never_gave_is_refused(size, token, field):
    with pytest.raises(InvalidPageError) as refused:
        page_of(models("a"), size, token)

    assert refused.value.field_violations[0].field == field
