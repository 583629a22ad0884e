import numpy as np

from caravan_engine.domain.sampling.mirostat import Mirostat
from caravan_engine.domain.sampling.options import MirostatOptions

OPTIONS = MirostatOptions(tau=2.0, eta=0.25)
HALVES = np.log(np.array([0.5, 0.25, 0.125, 0.125])).astype(np.float32)


def test_mu_begins_at_twice_the_wanted_surprise_and_moves_by_the_error():
    mirostat = Mirostat(OPTIONS)
    assert mirostat.mu == 4.0
    assert mirostat.choose(HALVES, 0.0) == 0
    assert abs(mirostat.mu - (4.0 - 0.25 * (1.0 - 2.0))) < 1e-6


def test_what_surprises_more_than_mu_is_never_chosen_but_one_always_is():
    draws = [Mirostat(OPTIONS, mu=2.5).choose(HALVES, i / 100) for i in range(100)]
    assert set(draws) == {0, 1}
    assert abs(draws.count(0) - 67) <= 1
    assert {Mirostat(OPTIONS, mu=-1.0).choose(HALVES, i / 10) for i in range(10)} == {0}


def test_the_surprise_of_a_long_text_is_the_wanted_one():
    generator = np.random.default_rng(1)
    mirostat, levels = Mirostat(OPTIONS), []
    for _ in range(2000):
        logits = np.sort(generator.normal(0, 2, 500)).astype(np.float32)[::-1]
        levels.append(mirostat.mu)
        mirostat.choose(logits, generator.random())
    surprises = OPTIONS.tau - np.diff(levels) / OPTIONS.eta
    assert abs(surprises.mean() - OPTIONS.tau) < 0.05


def test_a_copied_mu_goes_on_the_same():
    one, uniforms = Mirostat(OPTIONS), np.random.default_rng(2).random(40)
    for uniform in uniforms[:20]:
        one.choose(HALVES, uniform)
    other = Mirostat(OPTIONS, mu=one.mu)
    assert [one.choose(HALVES, u) for u in uniforms[20:]] == [
        other.choose(HALVES, u) for u in uniforms[20:]
    ]


def test_nan_chooses_nothing():
    assert Mirostat(OPTIONS).choose(np.full(3, np.nan, np.float32), 0.5) is None
