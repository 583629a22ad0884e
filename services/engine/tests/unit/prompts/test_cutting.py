import re

from hypothesis import given
from hypothesis import strategies as st

from caravan_engine.prompts.cutting import cut

# The splitter of GPT-2, in the words of Python's `re`.
SPLITTER = re.compile(r" ?[^\W\d_]+| ?\d+| ?[^\s\w]+|_+|\s+(?!\S)|\s+")
TEXT = st.lists(st.sampled_from(["word", "Ärger", " ", "  ", "\n", ".", "1", "_", "字"])).map(
    "".join
)


def words(text):
    return SPLITTER.findall(text)


@given(TEXT, st.integers(1, 30))
def test_pieces_are_short_and_make_up_the_text(text, limit):
    pieces = list(cut(text, limit))

    assert "".join(pieces) == text
    assert all(len(piece) <= limit for piece in pieces)


@given(st.lists(st.sampled_from(["a", "bc", "def", "12", "!", "\n", "x."]), min_size=1))
def test_text_with_words_is_cut_only_between_them(parts):
    text = " ".join(f"a word {part}" for part in parts)

    pieces = list(cut(text, 20))

    assert [word for piece in pieces for word in words(piece)] == words(text)


def test_a_run_without_words_is_cut_at_the_limit():
    assert [len(piece) for piece in cut("x" * 25, 10)] == [10, 10, 5]


def test_short_text_stays_whole():
    assert list(cut("a b", 10)) == ["a b"]


def test_empty_text_is_one_empty_piece():
    assert list(cut("", 10)) == [""]


def test_a_long_text_is_cut_in_one_pass():
    text = "word " * 200_000

    assert sum(1 for _ in cut(text)) < 300
