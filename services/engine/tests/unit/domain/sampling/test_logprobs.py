import math

import numpy as np
import pytest

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.errors import InvalidFieldError
from caravan_engine.domain.sampling.logprobs import RowLogprobs
from caravan_engine.domain.sampling.options import SamplingOptions


def row(*probabilities):
    return (np.log(np.array(probabilities)) + 3).astype(np.float32)


def test_they_are_the_log_softmax_best_first_and_the_lower_token_first_of_equals():
    found = RowLogprobs(row(0.1, 0.3, 0.3, 0.25, 0.05), 3).of(0)
    assert found.chosen == pytest.approx(math.log(0.1), abs=1e-6)
    assert [token for token, _ in found.top] == [1, 2, 3]
    assert [value for _, value in found.top] == pytest.approx(
        [math.log(each) for each in (0.3, 0.3, 0.25)], abs=1e-6
    )


def test_no_more_are_named_than_there_are_and_none_if_none_are_wanted():
    assert len(RowLogprobs(row(0.5, 0.5), 20).of(0).top) == 2
    assert RowLogprobs(row(0.5, 0.5), 0).of(0).top == ()


def test_they_are_of_the_row_before_it_was_changed():
    logits = row(0.5, 0.5)
    measured = RowLogprobs(logits, 1)
    logits[:] = -np.inf
    assert measured.of(1).chosen == pytest.approx(math.log(0.5), abs=1e-6)


def test_large_logits_do_not_overflow():
    found = RowLogprobs(np.array([1e4, 1e4, -1e4], np.float32), 1).of(2)
    assert found.chosen == pytest.approx(-2e4 - math.log(2))


@pytest.mark.parametrize("num_top", [-1, 21])
def test_a_number_out_of_bounds_is_refused(make_rig, num_top):
    with pytest.raises(InvalidFieldError) as refused:
        make_rig().submit(num_top_logprobs=num_top)
    assert refused.value.field_violations[0].field == "logprobs.top_count"


def test_bias_and_penalties_leave_no_trace_in_them(make_rig):
    def logprobs(**options):
        rig = make_rig(FakeBackend(next_token=lambda history: 97 + len(history) % 26))
        sampling = SamplingOptions(temperature=0, **options)
        sequence = rig.submit(b"x", sampling=sampling, num_top_logprobs=2, max_output=4)
        rig.run()
        return sequence.output.tokens, sequence.output.logprobs

    plain_tokens, plain = logprobs()
    biased_tokens, biased = logprobs(logit_bias={65: 100.0}, presence_penalty=2.0)
    assert biased_tokens == [65] * 4 != plain_tokens
    assert [each.top for each in biased] == [each.top for each in plain]
    assert all(each.chosen < -9 for each in biased)
    assert all(each.chosen == each.top[0][1] for each in plain)


def test_only_who_asks_gets_them(make_rig):
    rig = make_rig()
    asking, other = rig.submit(b"a", num_top_logprobs=0), rig.submit(b"b")
    rig.run()
    assert all(asking.output.logprobs)
    assert set(other.output.logprobs) == {None}
