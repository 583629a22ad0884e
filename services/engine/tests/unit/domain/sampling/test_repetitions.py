import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caravan_engine.domain.sampling.options import DryOptions
from caravan_engine.domain.sampling.repetitions import RepetitionWindow

PIECES = (b"a", b"b", b"c", b"\n", b"x\nx", b"St", b"op", b"\xc3", b"\xa9", b"o")
NEWLINE, HOLDS_NEWLINE, ST, OP = 3, 4, 5, 6


def window(history, **options):
    made = RepetitionWindow(DryOptions(**{"multiplier": 1.0, "base": 2.0, **options}), PIECES)
    made.begin(history)
    return made


def costs(dry):
    """Returns what each token would cost."""
    logits = np.zeros(len(PIECES), np.float32)
    dry.apply(logits)
    return {token: -cost for token, cost in enumerate(logits.tolist()) if cost}


def expected(history, options):
    """The definition, word by word."""
    kept = history[-options.penalty_last_n :]
    since = next((i for i, token in enumerate(reversed(kept)) if b"\n" in PIECES[token]), len(kept))
    found = {}
    if min(len(kept), since) < options.allowed_length or len(kept) <= options.allowed_length:
        return found
    for end in range(1, len(kept)):
        length = 0
        while length < min(end, since) and kept[end - 1 - length] == kept[-1 - length]:
            length += 1
        if length >= options.allowed_length and b"\n" not in PIECES[kept[end]]:
            found[kept[end]] = max(found.get(kept[end], 0), length)
    return {
        token: options.base ** (length - options.allowed_length) for token, length in found.items()
    }


def test_a_token_that_would_repeat_costs_by_the_length_of_the_repetition():
    a, b, c = 0, 1, 2
    assert costs(window([a, b, c, c, b, c, a, b, c])) == {c: 2.0, a: 1.0}


def test_a_repetition_no_longer_than_allowed_is_free():
    assert costs(window([0, 1, 2, 0, 1], allowed_length=3)) == {}


def test_nothing_repeats_across_a_breaker():
    assert costs(window([0, 1, 2, NEWLINE, 0, 1])) == {2: 1.0}
    assert costs(window([0, 1, 2, 0, NEWLINE, 1])) == {}


def test_a_token_that_holds_a_breaker_costs_nothing():
    assert costs(window([0, 1, HOLDS_NEWLINE, 0, 1])) == {}


def test_a_breaker_is_found_however_it_is_cut_into_tokens():
    assert costs(window([0, 1, 2, ST, OP, 0, 1], sequence_breakers=("Stop",))) == {2: 1.0}
    assert costs(window([ST, OP, 0, 1, ST, OP], sequence_breakers=("Stop",))) == {}
    assert costs(window([ST, OP, 0, 1, ST, OP], sequence_breakers=("Stopp",))) == {0: 1.0}
    assert costs(window([7, 8, 0, 7, 8], sequence_breakers=("é",))) == {}


def test_costs_do_not_overflow():
    logits = np.zeros(len(PIECES), np.float32)
    window([0] * 400, base=4.0, penalty_last_n=400).apply(logits)
    assert np.isfinite(logits).all()
    assert logits[0] < -1e37


@pytest.mark.parametrize("allowed", [0, 1, 3])
@given(
    history=st.lists(st.integers(0, 4), max_size=40),
    following=st.lists(st.integers(0, 4), max_size=20),
    last_n=st.integers(1, 30),
)
def test_moved_rebuilt_and_defined_are_the_same(history, following, last_n, allowed):
    options = DryOptions(
        multiplier=1.0,
        base=2.0,
        allowed_length=allowed,
        penalty_last_n=last_n,
        sequence_breakers=("\n",),
    )
    moved = RepetitionWindow(options, PIECES)
    moved.begin(history)
    moved.accept(following)
    rebuilt = RepetitionWindow(options, PIECES)
    rebuilt.begin([*history, *following])
    assert costs(moved) == costs(rebuilt) == expected([*history, *following], options)


@given(
    history=st.lists(st.sampled_from([0, 1, NEWLINE, ST, OP]), max_size=30),
    num_begun=st.integers(0, 30),
    penalty_last_n=st.integers(1, 12),
)
def test_a_window_begun_later_is_the_same(history, num_begun, penalty_last_n):
    options = {"penalty_last_n": penalty_last_n, "sequence_breakers": ("\n", "Stop", "aSto")}
    early, late = window(history[:num_begun], **options), window(history, **options)
    early.accept(history[num_begun:])
    assert costs(early) == costs(late)


def test_a_breaker_may_begin_before_the_window():
    a, b = 0, 1
    options = {"penalty_last_n": 4, "sequence_breakers": ("baa",)}
    assert costs(window([b, a, a, a, a], **options)) == {a: 1.0}
    assert costs(window([a, a, a, a, a], **options)) == {a: 2.0}
