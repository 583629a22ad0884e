from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from caravan_engine.runtime.detokenizer import NOTHING, Detokenizer, TextPiece

TEXTS = st.text(st.sampled_from("abcäß漢字🐪 \n"), max_size=25).map(str.encode) | st.binary(
    max_size=25
)


def divide(data, cuts):
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return [data[start:end] for start, end in pairwise(bounds)]


def feed(pieces, stops=()):
    """Returns what leaves, up to the end or a stop string, and the stop string."""
    detokenizer = Detokenizer(pieces, stops)
    left = []
    for token in range(len(pieces)):
        left.append(detokenizer.append(token))
        if detokenizer.stop_string is not None:
            break
    left.append(detokenizer.flush())
    return [piece for piece in left if piece != NOTHING], detokenizer.stop_string


def cut_at_first(text, stops):
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return text[: end - len(stop)], stop
    return text, None


@given(data=TEXTS, cuts=st.lists(st.integers(0, 100)))
def test_any_division_into_tokens_gives_the_same_text(data, cuts):
    pieces = divide(data, cuts)
    left, _ = feed(pieces)
    assert "".join(each.text for each in left) == data.decode(errors="replace")
    assert [token for each in left for token in each.token_ids] == list(range(len(pieces)))


@given(
    data=TEXTS,
    cuts=st.lists(st.integers(0, 100)),
    stops=st.lists(st.text("abcß🐪 ", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_any_division_into_tokens_finds_the_same_stop_string(data, cuts, stops):
    text = data.decode(errors="replace")
    left, stop = feed(divide(data, cuts), stops)
    assert ("".join(each.text for each in left), stop) == cut_at_first(text, stops)


@given(
    data=TEXTS,
    cuts=st.lists(st.integers(0, 100)),
    stops=st.lists(st.text("abcß🐪 ", min_size=1, max_size=4), max_size=3),
)
def test_what_leaves_is_exactly_the_text_of_its_tokens(data, cuts, stops):
    pieces = divide(data, cuts)
    left, stop = feed(pieces, stops)
    for piece in left if stop is None else left[:-1]:
        own = b"".join(pieces[token] for token in piece.token_ids)
        assert piece.text == own.decode(errors="replace")


@given(data=TEXTS, cuts=st.lists(st.integers(0, 100)))
def test_nothing_of_a_stop_string_ever_leaves(data, cuts):
    left, _ = feed(divide(data, cuts), ["ab", "🐪c"])
    assert not any(stop in "".join(each.text for each in left) for stop in ("ab", "🐪c"))


def test_tokens_of_an_incomplete_character_wait_for_the_rest():
    camel = "🐪".encode()
    detokenizer = Detokenizer([camel[:2], camel[2:3], camel[3:] + b"!"])
    assert detokenizer.append(0) == NOTHING
    assert detokenizer.append(1) == NOTHING
    assert detokenizer.append(2) == TextPiece("🐪!", (0, 1, 2))


def test_a_possible_beginning_is_held_back_only_as_long_as_it_is_one():
    detokenizer = Detokenizer([b"hel", b"lo S", b"T", b"AR"], ["STOP"])
    assert detokenizer.append(0) == TextPiece("hel", (0,))
    assert detokenizer.append(1) == NOTHING  # the whole token waits, so text and tokens agree
    assert detokenizer.append(2) == NOTHING
    assert detokenizer.append(3) == TextPiece("lo STAR", (1, 2, 3))


def test_the_last_piece_has_the_cut_text_and_all_tokens():
    detokenizer = Detokenizer([b"one ", b"ST", b"OP and more"], ["STOP"])
    assert detokenizer.append(0) == TextPiece("one ", (0,))
    assert detokenizer.append(1) == NOTHING
    assert detokenizer.append(2) == TextPiece("", (1, 2))
    assert detokenizer.stop_string == "STOP"


def test_everything_held_leaves_at_the_end():
    detokenizer = Detokenizer([b"ST", "ß".encode()[:1]], ["STOP"])
    assert detokenizer.append(0) == NOTHING
    assert detokenizer.append(1) == NOTHING
    assert detokenizer.flush() == TextPiece("ST\ufffd", (0, 1))


def test_tokens_without_text_are_counted():
    detokenizer = Detokenizer([b"", b"x"])
    assert detokenizer.append(0) == TextPiece("", (0,))
    assert detokenizer.append(1) == TextPiece("x", (1,))


@given(
    data=TEXTS,
    cuts=st.lists(st.integers(0, 100)),
    stops=st.lists(st.text("abcß🐪 ", min_size=1, max_size=4), max_size=3),
    place=st.integers(0, 30),
)
def test_another_detokenizer_goes_on_from_what_has_left(data, cuts, stops, place):
    pieces = divide(data, cuts)
    left, stop = feed(pieces, stops)
    before, after = left[:place], left[place:]
    begun = sum(len(each.token_ids) for each in before)
    num_tokens = begun + sum(len(each.token_ids) for each in after)

    detokenizer = Detokenizer(pieces, stops)
    detokenizer.skip(range(begun))
    rest = [detokenizer.append(token) for token in range(begun, num_tokens)]
    rest.append(detokenizer.flush())
    assert [each for each in rest if each != NOTHING] == after
    assert detokenizer.stop_string == stop


def test_a_stop_string_whose_beginning_has_left_still_ends_the_text():
    detokenizer = Detokenizer([b"one ST", b"OP", b"AR"], ["STOP"])
    detokenizer.skip([0])  # left because an AR came, but is not chosen again
    assert detokenizer.append(1) == TextPiece("", (1,))
    assert detokenizer.stop_string == "STOP"
