from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from caravan_engine.domain.stop_strings import StopMatch, StopMatcher

LETTERS = st.text("abc", min_size=1, max_size=6)


def first_match(text, stops):
    """The obvious way: the first stop string to be complete, of several the longest."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return end - len(stop), stop
    return None


def num_undecided(text, stops):
    beginnings = {stop[:length] for stop in stops for length in range(1, len(stop))}
    return max((len(each) for each in beginnings if text.endswith(each)), default=0)


@given(
    text=st.text("abc", max_size=30),
    stops=st.lists(LETTERS, min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 30)),
)
def test_any_division_of_the_text_finds_what_the_obvious_search_finds(text, stops, cuts):
    matcher = StopMatcher(stops)
    bounds = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    found = None
    for start, end in pairwise(bounds):
        match = matcher.feed(text[start:end])
        if match:
            found = (start + match.start, match.stop)
            break
        assert matcher.num_undecided == num_undecided(text[:end], stops)
    assert found == first_match(text, stops)


def test_a_match_may_begin_in_an_earlier_piece():
    matcher = StopMatcher(["STOP"])
    assert matcher.feed("a ST") is None
    assert matcher.feed("OP b") == StopMatch("STOP", -2)


def test_the_longest_of_stop_strings_that_end_together_wins():
    assert StopMatcher(["b", "ab"]).feed("xab") == StopMatch("ab", 1)
