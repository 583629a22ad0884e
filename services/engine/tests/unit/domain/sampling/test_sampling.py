import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caravan_engine.domain.errors import InvalidFieldError
from caravan_engine.domain.sampling.options import (
    MAX_CANDIDATES,
    DryOptions,
    MirostatOptions,
    SamplingOptions,
    XtcOptions,
    draw_key,
    keyed_uniform,
)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 5.1),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("repeat_penalty", 0.0),
        ("repeat_penalty", 10.5),
        ("frequency_penalty", -2.1),
        ("presence_penalty", 2.1),
        ("penalty_last_n", -1),
        ("penalty_last_n", 8193),
        ("typical_p", 0.0),
        ("typical_p", 1.1),
        ("typical_p", math.nan),
    ],
)
def test_a_field_out_of_range_is_refused_with_its_path(field, value):
    with pytest.raises(InvalidFieldError) as caught:
        SamplingOptions(**{field: value})
    assert [each.field for each in caught.value.field_violations] == [f"sampling.{field}"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "field",
    [
        "temperature",
        "top_p",
        "min_p",
        "repeat_penalty",
        "frequency_penalty",
        "presence_penalty",
    ],
)
def test_numbers_that_are_not_finite_are_refused(field, value):
    with pytest.raises(InvalidFieldError):
        SamplingOptions(**{field: value})


def test_all_faults_are_reported_at_once():
    with pytest.raises(InvalidFieldError) as caught:
        SamplingOptions(temperature=-1, top_p=2, logit_bias={7: math.nan})
    fields = {each.field for each in caught.value.field_violations}
    assert fields == {"sampling.temperature", "sampling.top_p", "sampling.logit_bias[7]"}


def test_top_k_of_zero_or_too_many_keeps_the_documented_number_of_candidates():
    assert SamplingOptions(top_k=0).num_candidates == MAX_CANDIDATES
    assert SamplingOptions(top_k=100_000).num_candidates == MAX_CANDIDATES
    assert SamplingOptions(top_k=7).num_candidates == 7


@given(
    seed=st.integers(0, 2**64 - 1),
    choice=st.integers(0, 63),
    position=st.integers(0, 2**20),
    use=st.integers(0, 3),
)
def test_draws_are_in_the_half_open_unit_interval_and_repeatable(seed, choice, position, use):
    draw = keyed_uniform(draw_key(seed, choice), position, use)
    assert 0 <= draw < 1
    assert draw == keyed_uniform(draw_key(seed, choice), position, use)


@pytest.mark.parametrize("vary", ["seed", "choice", "position", "use"])
def test_draws_along_each_part_of_the_key_are_uniform_and_uncorrelated(vary):
    numbers = np.array([_draw(**{vary: value}) for value in range(20_000)])
    counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
    chi_square = ((counts - 1000) ** 2 / 1000).sum()
    assert chi_square < 43.8  # 19 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03


def _draw(*, seed=1, choice=0, position=0, use=0):
    return keyed_uniform(draw_key(seed, choice), position, use)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"dry": DryOptions(multiplier=5.1)}, "dry.multiplier"),
        ({"dry": DryOptions(multiplier=math.nan)}, "dry.multiplier"),
        ({"dry": DryOptions(base=0.9)}, "dry.base"),
        ({"dry": DryOptions(base=4.1)}, "dry.base"),
        ({"dry": DryOptions(base=math.inf)}, "dry.base"),
        ({"dry": DryOptions(allowed_length=101)}, "dry.allowed_length"),
        ({"dry": DryOptions(penalty_last_n=8193)}, "dry.penalty_last_n"),
        ({"dry": DryOptions(sequence_breakers=("a",) * 17)}, "dry.sequence_breakers"),
        ({"dry": DryOptions(sequence_breakers=("a", ""))}, "dry.sequence_breakers[1]"),
        ({"dry": DryOptions(sequence_breakers=("é" * 21,))}, "dry.sequence_breakers[0]"),
        ({"xtc": XtcOptions(probability=1.1)}, "xtc.probability"),
        ({"xtc": XtcOptions(probability=math.nan)}, "xtc.probability"),
        ({"xtc": XtcOptions(threshold=0.6)}, "xtc.threshold"),
        ({"mirostat": MirostatOptions(tau=0)}, "mirostat.tau"),
        ({"mirostat": MirostatOptions(tau=20.5)}, "mirostat.tau"),
        ({"mirostat": MirostatOptions(eta=0)}, "mirostat.eta"),
        ({"mirostat": MirostatOptions(eta=math.inf)}, "mirostat.eta"),
    ],
)
def test_a_nested_field_out_of_range_is_refused_with_its_path(options, path):
    with pytest.raises(InvalidFieldError) as caught:
        SamplingOptions(**options)
    assert [each.field for each in caught.value.field_violations] == [f"sampling.{path}"]


def test_mirostat_takes_the_place_of_the_other_candidates_rules():
    options = SamplingOptions(top_k=5, xtc=XtcOptions(probability=1.0), mirostat=MirostatOptions())
    assert options.num_candidates == MAX_CANDIDATES
    assert not options.has_xtc
