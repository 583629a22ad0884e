import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caravan_engine.backends.candidates import TopLogits


@given(
    size=st.integers(1, 700), wanted=st.integers(1, 120), seed=st.integers(0, 9), ties=st.booleans()
)
def test_the_best_are_always_among_those_found(size, wanted, seed, ties):
    logits = np.random.default_rng(seed).normal(0, 3, size).astype(np.float32)
    if ties:
        logits = np.round(logits)
    found = TopLogits(size, wanted).ids(logits)
    best = np.sort(logits)[::-1][: min(wanted, size)]
    assert np.array_equal(np.sort(logits[found])[::-1][: len(best)], best)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("wanted", [1, 40, 1024])
def test_little_more_than_wanted_is_found(wanted):
    logits = np.random.default_rng(0).normal(0, 3, 32_000).astype(np.float32)
    assert wanted <= TopLogits(32_000, wanted).ids(logits).size <= 1.4 * wanted + 2


def test_nothing_is_found_in_a_row_of_nan():
    assert TopLogits(100, 10).ids(np.full(100, np.nan, np.float32)).size == 0
