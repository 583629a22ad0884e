"""Records become requests, and requests records again."""

import pytest

from caravan_engine.domain.recovery.live_requests import LiveRequests, UnexpectedRecordError
from caravan_engine.domain.recovery.records import (
    ChoiceFinished,
    ComputationBegan,
    RequestBegan,
    RequestEnded,
    TokensLeft,
)

ONE = [
    RequestBegan(1, b"one", 1000),
    ComputationBegan(1, 7),
    TokensLeft(1, 0, 0, (5, 6)),
    TokensLeft(1, 1, 0, (9,), 2.5),
    TokensLeft(1, 0, 2, (7,)),
    TokensLeft(1, 1, 1, (8, 8), 3.5),
    ChoiceFinished(1, 0),
]
TWO = [RequestBegan(2, b"two", 2000)]


def following(records):
    live = LiveRequests()
    for record in records:
        live.apply(record)
    return live


def test_a_request_is_what_was_recorded_of_it():
    first, second = following([*ONE, *TWO])
    assert (first.began.request, first.cached_tokens, first.num_tokens) == (b"one", 7, 6)
    assert list(first.choices[0].tokens) == [5, 6, 7]
    assert first.choices[0].is_finished
    assert first.choices[1].mus == {1: 2.5, 3: 3.5}
    assert (second.cached_tokens, second.choices) == (None, {})


def test_its_shortest_account_says_the_same_and_joins_what_can_be_joined():
    live = following([*ONE, *TWO])
    records = [record for request in live for record in request.records()]
    assert len(records) == len(ONE) + len(TWO) - 1
    again = following(records)
    assert list(again) == list(live)
    assert again.num_bytes == live.num_bytes


def test_what_ended_is_gone():
    live = following([*ONE, *TWO, RequestEnded(1), RequestEnded(2)])
    assert (len(live), live.num_bytes) == (0, 0)


@pytest.mark.parametrize(
    "record",
    [
        RequestBegan(1, b"again", 0),
        ComputationBegan(3, 0),
        TokensLeft(3, 0, 0, (1,)),
        TokensLeft(1, 1, 2, (1,)),  # one of them was there already
        TokensLeft(1, 1, 4, (1,)),  # one is missing
        TokensLeft(1, 0, 3, (1,)),  # after the end
        ChoiceFinished(1, 0),
        RequestEnded(3),
    ],
    ids=repr,
)
def test_what_does_not_follow_is_refused_and_changes_nothing(record):
    live = following(ONE)
    before = [record for request in live for record in request.records()]
    with pytest.raises(UnexpectedRecordError):
        live.apply(record)
    assert [record for request in live for record in request.records()] == before
