import numpy as np
import pytest

from caravan_engine.domain.sampling.options import (
    DryOptions,
    MirostatOptions,
    SamplingOptions,
    XtcOptions,
)
from caravan_engine.domain.sampling.token_sampler import TokenSampler, UnusableLogitsError

GREEDY = SamplingOptions(temperature=0)


class All:
    """Every token is a candidate; XTC drops the best."""

    def narrow(self, logits, *, excludes_top):
        order = np.argsort(-logits, kind="stable")[1 if excludes_top else 0 :]
        return order.astype(np.int32), logits[order]


def sampler(options, *, seed=0, choice_index=0, history=(0,), banned=(), pieces=()):
    return TokenSampler(
        options,
        seed=seed,
        choice_index=choice_index,
        candidates=None if options.is_greedy else All(),
        history=history,
        banned=banned,
        pieces=pieces,
    )


def row(*logits):
    return np.array(logits, np.float32)


def test_greedy_takes_the_best_and_the_first_of_equals():
    assert sampler(GREEDY).choose(row(1, 3, 3, 2), 1) == 1


def test_bias_comes_before_penalties_and_both_before_the_choice():
    options = SamplingOptions(
        temperature=0, logit_bias={2: 5.0}, presence_penalty=2.0, penalty_last_n=4
    )
    logits = row(1.0, 2.0, 0.0)
    assert sampler(options, history=(2,)).choose(logits, 1) == 2
    assert logits.tolist() == [1.0, 2.0, 3.0]


def test_banned_tokens_are_never_chosen():
    assert sampler(GREEDY, banned={1}).choose(row(0, 9, 1), 1) == 2


@pytest.mark.parametrize("options", [GREEDY, SamplingOptions()])
def test_rows_of_nan_are_unusable(options):
    with pytest.raises(UnusableLogitsError):
        sampler(options).choose(row(np.nan, np.nan, np.nan), 1)


def test_accepted_tokens_are_penalised():
    options = SamplingOptions(temperature=0, presence_penalty=2.0)
    chooser = sampler(options, history=(0,))
    assert chooser.choose(row(0, 2, 1), 1) == 1
    chooser.accept(1)
    assert chooser.choose(row(0, 2, 1), 2) == 2


def test_draws_follow_the_distribution():
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05])).astype(np.float32)
    chooser = sampler(SamplingOptions(), seed=42)
    draws = [chooser.choose(logits.copy(), position) for position in range(40_000)]
    counts = np.bincount(draws, minlength=4)
    wanted = np.array([0.5, 0.3, 0.15, 0.05]) * len(draws)
    assert ((counts - wanted) ** 2 / wanted).sum() < 16.3  # 3 degrees of freedom, p = 0.001


def test_the_same_key_draws_the_same_and_another_choice_something_else():
    logits = np.zeros(1000, np.float32)

    def draws(**key):
        chooser = sampler(SamplingOptions(), **key)
        return [chooser.choose(logits.copy(), position) for position in range(50)]

    assert draws(seed=1) == draws(seed=1)
    assert draws(seed=1) != draws(seed=2)
    assert draws(seed=1, choice_index=1) != draws(seed=1)


def test_a_draw_depends_on_its_position_and_not_on_the_draws_before():
    logits = np.zeros(1000, np.float32)
    first, second = sampler(SamplingOptions()), sampler(SamplingOptions())
    for position in range(1, 9):
        first.choose(logits.copy(), position)
    assert first.choose(logits.copy(), 9) == second.choose(logits.copy(), 9)


def test_repeated_sequences_are_penalised_after_the_penalties():
    options = SamplingOptions(temperature=0, dry=DryOptions(multiplier=2.0, allowed_length=1))
    chooser = sampler(options, history=(1, 2, 1), pieces=(b"a", b"b", b"c"))
    assert chooser.choose(row(1, 0, 2), 3) == 0
    chooser.accept(0)
    assert chooser.choose(row(1, 0, 2), 4) == 2


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (0.3, 0.3), (1.0, 1.0)])
def test_xtc_drops_the_top_as_often_as_asked_for(probability, share):
    options = SamplingOptions(xtc=XtcOptions(probability=probability))
    chooser = sampler(options, seed=3)
    draws = [chooser.choose(row(50, 0, -50), position) for position in range(4000)]
    assert abs(np.mean(np.array(draws) == 1) - share) < 0.03


def test_xtc_decides_apart_from_the_draw_and_again_the_same():
    options = SamplingOptions(xtc=XtcOptions(probability=0.5))

    def draws():
        chooser = sampler(options, seed=3)
        return [chooser.choose(np.zeros(100, np.float32), at) for at in range(400)]

    assert draws() == draws()
    plain = sampler(SamplingOptions(), seed=3)
    uses = [plain.choose(np.zeros(100, np.float32), at) for at in range(400)]
    moved = [a - b for a, b in zip(draws(), uses, strict=True)]
    assert set(moved) == {0, 1}  # one candidate less, or the very same draw
    assert abs(np.corrcoef(moved, uses)[0, 1]) < 0.3


def test_mirostat_takes_the_draw_and_keeps_its_mu():
    options = SamplingOptions(mirostat=MirostatOptions(tau=1.0, eta=0.5))
    chooser = sampler(options, seed=1)
    before = chooser.mirostat.mu
    chooser.choose(row(3, 2, 1), 1)
    assert chooser.mirostat.mu != before


def test_mirostat_without_temperature_is_greedy():
    options = SamplingOptions(temperature=0, mirostat=MirostatOptions())
    assert sampler(options).choose(row(1, 3, 2), 1) == 1


def test_mirostat_refuses_rows_of_nan():
    with pytest.raises(UnusableLogitsError):
        sampler(SamplingOptions(mirostat=MirostatOptions())).choose(row(np.nan, np.nan), 1)
