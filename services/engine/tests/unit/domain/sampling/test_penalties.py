from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.sampling.penalties import PenaltyWindow

VOCABULARY = 12


def expected(history, options, logits):
    result = logits.copy()
    for token, count in Counter(history[-options.penalty_last_n :]).items():
        value = result[token]
        value = (
            value * np.float32(options.repeat_penalty)
            if value <= 0
            else value / np.float32(options.repeat_penalty)
        )
        result[token] = value - (
            np.float32(count) * np.float32(options.frequency_penalty)
            + np.float32(options.presence_penalty)
        )
    return result


@given(
    history=st.lists(st.integers(0, VOCABULARY - 1), max_size=60),
    last_n=st.integers(1, 20),
    repeat=st.floats(0.5, 2, width=32),
    frequency=st.floats(-2, 2, width=32),
    presence=st.floats(-2, 2, width=32),
    seed=st.integers(0, 1000),
)
def test_a_window_moved_over_a_history_penalises_like_one_pass_over_its_end(
    history, last_n, repeat, frequency, presence, seed
):
    options = SamplingOptions(
        penalty_last_n=last_n,
        repeat_penalty=repeat,
        frequency_penalty=frequency,
        presence_penalty=presence,
    )
    window = PenaltyWindow(options)
    logits = np.random.default_rng(seed).normal(0, 3, VOCABULARY).astype(np.float32)
    for token in history:
        window.accept((token,))
    moved = logits.copy()
    window.apply(moved)
    rebuilt = PenaltyWindow(options)
    rebuilt.accept(history)
    again = logits.copy()
    rebuilt.apply(again)
    assert np.array_equal(moved, expected(history, options, logits))
    assert np.array_equal(again, moved)


def test_a_banned_token_stays_banned():
    window = PenaltyWindow(SamplingOptions(repeat_penalty=1.5))
    window.accept((3,))
    logits = np.full(VOCABULARY, -np.inf, np.float32)
    window.apply(logits)
    assert np.isneginf(logits).all()
