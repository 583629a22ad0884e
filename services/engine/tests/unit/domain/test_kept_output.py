import pytest
from hypothesis import given
from hypothesis import strategies as st

from caravan_engine.domain.errors import InvalidFieldError
from caravan_engine.domain.events import (
    Completed,
    Delta,
    Finished,
    FinishReason,
    Started,
    Timings,
    TokenLogprob,
    TokenLogprobs,
)
from caravan_engine.domain.kept_output import KeptOutput, Received
from caravan_engine.domain.request import Emitted

STARTED = Started(input_tokens=5, cached_tokens=2)
COMPLETED = Completed(5, 2, 4, Timings(0.1, 0.2, 0.3))


def delta(offset, *tokens, choice=0, mu=None):
    return Delta(choice, "x" * len(tokens), tokens, offset, mirostat_mu=mu)


def finished(num_tokens, choice=0):
    return Finished(choice, FinishReason.LENGTH, None, num_tokens)


def output_of(*events):
    output = KeptOutput()
    for event in events:
        output.take(event)
    return output


def test_what_follows_begins_with_started_and_has_nothing_that_the_client_has():
    output = output_of(STARTED, delta(0, 1, 2), delta(2, 3), finished(3), COMPLETED)
    has = output.history([Received(2)], 1)
    assert has == (Emitted((1, 2)),)
    assert output.after(has) == [STARTED, delta(2, 3), finished(3), COMPLETED]


def test_who_has_nothing_gets_everything():
    output = output_of(STARTED, delta(0, 1), delta(1, 2))
    assert output.after(output.history([], 1)) == [STARTED, delta(0, 1), delta(1, 2)]


def test_an_end_that_the_client_knows_is_not_said_again():
    output = output_of(STARTED, delta(0, 1), finished(1), delta(0, 7, choice=1))
    has = output.history([Received(1, is_finished=True)], 2)
    assert output.after(has) == [STARTED, delta(0, 7, choice=1)]


def test_choices_keep_the_order_in_which_they_were_told():
    events = (delta(0, 1), delta(0, 5, choice=1), delta(1, 2), delta(1, 6, choice=1))
    output = output_of(STARTED, *events)
    has = output.history([Received(1), Received(1)], 2)
    assert output.after(has) == [STARTED, delta(1, 2), delta(1, 6, choice=1)]


def test_mirostat_goes_on_from_where_the_client_is():
    output = output_of(STARTED, delta(0, 1, mu=1.5), delta(1, 2, mu=2.5))
    assert output.history([Received(1)], 1) == (Emitted((1,), mirostat_mu=1.5),)
    output.trim(0)
    assert output.history([Received(2)], 1) == (Emitted((1, 2), mirostat_mu=2.5),)


@pytest.mark.parametrize(
    "received",
    [
        [Received(4)],  # more than there are
        [Received(1)],  # in the middle of a delta
        [Received(2, is_finished=True)],  # not over there
        [Received(3), Received(0)],  # more choices than there are
    ],
)
def test_what_no_client_can_have_is_refused(received):
    output = output_of(STARTED, delta(0, 1, 2), delta(2, 3))
    with pytest.raises(InvalidFieldError):
        output.history(received, 1)


def test_what_was_let_go_can_not_be_resumed_but_what_follows_it_can():
    output = output_of(STARTED, *(delta(at, at) for at in range(100)))
    full = output.num_bytes
    output.trim(full // 2)
    assert output.num_bytes <= full // 2
    assert output.output_tokens == 100
    assert output.history([Received(1)], 1) is None
    has = output.history([Received(99)], 1)
    assert has == (Emitted(tuple(range(99))),)
    assert output.after(has) == [STARTED, delta(99, 99)]


def test_logprobs_count():
    logprobs = (TokenLogprobs(-1.0, tuple(TokenLogprob(1, "a", -1.0) for _ in range(20))),)
    plain, rich = output_of(delta(0, 1)), output_of(Delta(0, "x", (1,), 0, logprobs))
    assert rich.num_bytes > plain.num_bytes + 20 * 50


def test_another_workers_part_is_kept_as_tokens_and_as_text_where_it_can_be_told_again():
    earlier = (Emitted((1, 2, 3), mirostat_mu=4.0),)
    bare = KeptOutput(earlier)
    assert bare.has_begun
    assert bare.history([Received(2)], 1) is None
    assert bare.history([Received(3)], 1) == earlier
    retold = KeptOutput((Emitted((1, 2, 3)),), [delta(0, 1, 2), delta(2, 3)])
    assert retold.output_tokens == 3
    assert retold.after(retold.history([Received(2)], 1)) == [delta(2, 3)]


def test_an_end_that_only_another_worker_knew_can_not_be_told():
    output = KeptOutput((Emitted((1,), is_finished=True),), [delta(0, 1)])
    assert output.history([Received(1)], 1) is None
    assert output.history([Received(1, is_finished=True)], 1) is not None


def test_of_what_nobody_resumes_only_tokens_are_counted():
    output = KeptOutput(keeps_events=False)
    for event in (STARTED, delta(0, 1, 2), finished(2), COMPLETED):
        output.take(event)
    assert (output.output_tokens, [each.output_tokens for each in output.finished]) == (2, [2])
    assert output.after([]) == [STARTED, COMPLETED]


def test_only_the_same_tokens_follow():
    output = output_of(STARTED, delta(0, 1, 2), delta(2, 3))
    assert output.follows((Emitted((1, 2)),))
    assert not output.follows((Emitted((1, 9)),))
    assert not output.follows((Emitted((1,)),))


@given(
    sizes=st.lists(st.lists(st.integers(1, 4), max_size=20), min_size=1, max_size=3),
    data=st.data(),
)
def test_from_wherever_a_client_is_it_gets_each_token_once(sizes, data):
    tokens = {index: list(range(sum(each))) for index, each in enumerate(sizes)}
    ends = {index: [0] for index in tokens}
    output = output_of(STARTED)
    for index, each in enumerate(sizes):
        for size in each:
            at = ends[index][-1]
            output.take(delta(at, *range(at, at + size), choice=index))
            ends[index].append(at + size)
    counts = [data.draw(st.sampled_from(ends[index])) for index in tokens]
    has = output.history([Received(count) for count in counts], len(tokens))
    got = {index: list(each.tokens) for index, each in enumerate(has)}
    for event in output.after(has)[1:]:
        assert event.token_offset == len(got[event.choice_index])
        got[event.choice_index] += event.token_ids
    assert got == tokens
