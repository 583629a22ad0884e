from array import array

import pytest

from caravan_gateway.domain.emitted import BrokenSequenceError, Emitted, EmittedChoice
from caravan_gateway.domain.inference_facts import (
    CompletedFacts,
    DeltaFacts,
    FinishedFacts,
    StartedFacts,
)


@pytest.fixture
def emitted():
    emitted = Emitted()
    assert emitted.take(StartedFacts("d1", 4, 2))
    return emitted


def test_it_keeps_what_the_client_has_of_each_choice(emitted):
    for facts in (
        DeltaFacts(1, 0, [7], 2.5),
        DeltaFacts(0, 0, [5, 6]),
        DeltaFacts(1, 1, [8, 9], 2.25),
        FinishedFacts(0, "length", 2),
    ):
        assert emitted.take(facts)
    first, second, third = emitted.choices(3)
    assert (list(first.token_ids), first.finished, first.mirostat_mu) == ([5, 6], True, None)
    assert (list(second.token_ids), second.finished, second.mirostat_mu) == ([7, 8, 9], False, 2.25)
    assert list(third.token_ids) == []
    assert emitted.num_tokens == 5
    assert (emitted.model_digest, emitted.cached_tokens) == ("d1", 2)


def test_the_client_hears_once_that_it_started(emitted):
    assert not emitted.take(StartedFacts("d1", 4, 0))
    assert emitted.cached_tokens == 2


def test_it_is_over_when_every_choice_is(emitted):
    assert not Emitted().is_over(0)
    emitted.take(FinishedFacts(1, "length", 0))
    assert not emitted.is_over(2)
    emitted.take(FinishedFacts(0, "length", 0))
    assert emitted.is_over(2)


def test_an_answer_without_choices_is_never_held_for_a_generation():
    emitted = Emitted()
    assert emitted.take(CompletedFacts(1, 0, 0, 0.0))
    assert not emitted.has_begun


@pytest.mark.parametrize(
    "facts",
    [
        DeltaFacts(0, 1, [7]),  # a token is lost
        DeltaFacts(0, 3, [7]),
        DeltaFacts(1, 0, [7]),  # that choice is over
        FinishedFacts(1, "length", 0),
        StartedFacts("d2", 4, 0),
    ],
)
def test_what_does_not_follow_is_refused(emitted, facts):
    emitted.take(DeltaFacts(0, 0, [5, 6]))
    emitted.take(FinishedFacts(1, "length", 0))
    with pytest.raises(BrokenSequenceError):
        emitted.take(facts)


def test_a_client_that_comes_back_hears_once_more_that_it_started():
    has = EmittedChoice(array("I", [5, 6]), 2.5)
    emitted = Emitted.of_resumed("d1", 2, [has])
    assert emitted.has_begun
    assert emitted.take(StartedFacts("d1", 4, 0))
    assert not emitted.take(StartedFacts("d1", 4, 0))
    assert emitted.take(DeltaFacts(0, 2, [7]))
    assert list(next(emitted.choices(1)).token_ids) == [5, 6, 7]
