import pytest

from caravan_engine.backends.fake import BEGIN, FakeVocabulary
from caravan_engine.domain.errors import (
    ContextLengthExceededError,
    EmptyInputError,
    InvalidFieldError,
    TokenOutOfRangeError,
)
from caravan_engine.domain.request import (
    GenerationRequest,
    check_client_tokens,
    check_logit_bias,
)
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.scheduling.limits import SchedulerLimits


def request(**fields):
    settings = {"request_id": "r", "prompt": (1, 2), "sampling": SamplingOptions(), "seed": 0}
    return GenerationRequest(**{**settings, **fields})


def limits(**fields):
    settings = {"num_seats": 2, "num_cells": 64, "context_tokens": 32, "token_budget": 8}
    return SchedulerLimits(**{**settings, **fields})


def test_an_empty_input_is_refused():
    with pytest.raises(EmptyInputError):
        request(prompt=())


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"priority": 101}, "priority"),
        ({"stop": ("x",) * 17}, "stop"),
        ({"stop": ("ok", "")}, "stop[1]"),
        ({"stop": ("é" * 129,)}, "stop[0]"),
    ],
)
def test_fields_out_of_bounds_are_refused_with_their_path(fields, path):
    with pytest.raises(InvalidFieldError) as caught:
        request(**fields)
    assert [each.field for each in caught.value.field_violations] == [path]


def test_the_output_is_capped_by_the_context():
    assert limits().max_tokens(request(max_output_tokens=10)) == 12
    assert limits().max_tokens(request(max_output_tokens=1000)) == 32


def test_an_input_that_can_never_fit_is_refused_with_both_lengths():
    with pytest.raises(ContextLengthExceededError) as caught:
        limits().max_tokens(request(prompt=(1,) * 32))
    assert caught.value.metadata == {"input_tokens": "32", "context_tokens": "32"}


@pytest.mark.parametrize(
    "fields",
    [
        {"num_seats": 0},
        {"num_seats": 9},
        {"context_tokens": 65},
        {"context_tokens": 1},
        {"max_unread_tokens": 0},
    ],
)
def test_limits_that_contradict_each_other_are_refused(fields):
    with pytest.raises(ValueError, match="must"):
        limits(**fields)


@pytest.mark.parametrize("bad", [-1, 258, BEGIN])
def test_client_tokens_outside_the_vocabulary_or_of_control_type_are_refused(bad):
    with pytest.raises(TokenOutOfRangeError) as caught:
        check_client_tokens((65, bad), FakeVocabulary())
    assert caught.value.metadata["index"] == "1"
    check_client_tokens((0, 65, 255), FakeVocabulary())


def test_biases_of_tokens_that_do_not_exist_are_refused():
    with pytest.raises(InvalidFieldError):
        check_logit_bias(SamplingOptions(logit_bias={258: 1.0}), FakeVocabulary())
