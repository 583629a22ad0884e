from concurrent.futures import Future

import pytest

from caravan_engine.runtime.held_prefixes import MOST_HASHES, HeldPrefixes, MarkedInput

ROOT = b"tenant"


class Store:
    """Says how much of each text is stored, by its first token."""

    def __init__(self):
        self.lengths = {}
        self.asked = []

    def __call__(self, texts):
        self.asked.append(texts)
        done = Future()
        done.set_result([self.lengths.get(tokens[0], 0) for _, tokens in texts])
        return done


@pytest.fixture
def store():
    return Store()


@pytest.fixture
def held(store):
    return HeldPrefixes(store)


def marked(first, num_tokens=101, marks=((1, 0.25), (2, 0.5), (3, 1.0))):
    tokens = (first, *range(num_tokens - 1))
    return MarkedInput(ROOT, tokens, tuple((first * 100 + mark, share) for mark, share in marks))


async def test_marks_of_what_is_stored_are_told(held, store):
    held.note(marked(1))
    assert await held.look() == ()
    store.lengths[1] = 50
    assert await held.look() == (101, 102)
    store.lengths[1] = 100  # all but the last token, which is always computed
    assert await held.look() == (101, 102, 103)
    assert store.asked[-1] == [(ROOT, marked(1).tokens)]


async def test_what_is_forgotten_is_not_told_any_more(held, store):
    held.note(marked(1))
    store.lengths[1] = 100
    assert await held.look()
    store.lengths.clear()
    assert await held.look() == ()


async def test_the_latest_inputs_are_remembered_and_told_first(held, store):
    for first in (*range(1, 200), 150):
        held.note(marked(first, marks=((1, 1.0),)))
        store.lengths[first] = 100
    told = await held.look()
    assert len(told) == 128
    assert told[:3] == (15001, 19901, 19801)
    assert 101 not in told


async def test_what_is_told_is_bounded(held, store):
    for first in range(1, 129):
        held.note(marked(first, marks=tuple((mark, 0.5) for mark in range(64))))
        store.lengths[first] = 100
    assert len(await held.look()) == MOST_HASHES


async def test_equal_beginnings_are_told_once(held, store):
    one, other = marked(1), marked(1, num_tokens=50, marks=((1, 0.5), (7, 1.0)))
    held.note(one)
    held.note(other)
    store.lengths[1] = 100
    assert sorted(await held.look()) == [101, 102, 103, 107]


async def test_nobody_is_asked_about_nothing(held, store):
    held.note(marked(1, marks=()))
    held.note(marked(2, num_tokens=100_000))
    assert await held.look() == ()
    assert store.asked == []
