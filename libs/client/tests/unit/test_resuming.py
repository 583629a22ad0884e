import pytest

from caravan_client.errors import (
    CallCancelledError,
    DeadlineExceededError,
    ErrorDetails,
    InternalError,
    NotFoundError,
    UnavailableError,
)
from caravan_client.generation import Completed, Delta, Finished, FinishReason, Started, Usage
from caravan_client.resuming import Recovery

STARTED = Started("call-1", "alpha", "ab", 7, 4, 0)
COMPLETED = Completed(Usage(4, 0, 3))
BROKEN = UnavailableError("broke", ErrorDetails(reason="CONNECTION_LOST"))
GONE = NotFoundError("gone", ErrorDetails(reason="STREAM_NOT_KEPT"))


class Clock:
    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def recovery(clock):
    recovery = Recovery(is_wanted=True, clock=clock)
    assert recovery.is_news(STARTED)
    return recovery


def delta(offset, *tokens, choice=0):
    return Delta(choice, "x" * len(tokens), tokens, offset, ())


def finished(choice=0):
    return Finished(choice, FinishReason.LENGTH, 1, None)


def sent(recovery):
    """What the call that asks for the rest says."""
    from caravan.gateway.v1 import stream_service_pb2 as stream_pb

    request = stream_pb.ResumeGenerateRequest.FromString(recovery.resumption().payload)
    choices = [(each.output_tokens, each.finished) for each in request.choices]
    return request.model, request.request_id, choices


def test_it_asks_for_what_follows_each_choice(recovery):
    for event in (delta(0, 1, 2), delta(0, 9, choice=2), finished(2), delta(2, 3)):
        assert recovery.is_news(event)
    assert sent(recovery) == ("alpha", "call-1", [(3, False), (0, False), (1, True)])


def test_started_is_news_once(recovery):
    assert not recovery.is_news(STARTED)
    assert sent(recovery)[2] == []


@pytest.mark.parametrize(
    "error",
    [
        BROKEN,
        UnavailableError("draining", ErrorDetails(reason="DRAINING", code="UNAVAILABLE")),
        CallCancelledError("reset", ErrorDetails(code="CANCELLED")),
        InternalError("reset", ErrorDetails(code="INTERNAL")),
    ],
)
def test_broken_connections_are_tried_again_with_growing_pauses(recovery, error):
    pauses_s = [recovery.pause_s(error, None) for _ in range(8)]
    assert 0 < pauses_s[0] <= 0.1
    assert 1 <= pauses_s[-1] <= 2


@pytest.mark.parametrize(
    "error",
    [
        DeadlineExceededError("late", ErrorDetails(reason="DEADLINE_EXCEEDED")),
        InternalError("poison", ErrorDetails(reason="POISON_REQUEST")),
        GONE,
    ],
)
def test_what_a_gateway_answers_is_the_end(recovery, error):
    with pytest.raises(type(error)) as raised:
        recovery.pause_s(error, None)
    assert raised.value is error


def test_a_stream_that_is_not_kept_any_more_ended_as_it_broke(recovery):
    recovery.pause_s(BROKEN, None)
    with pytest.raises(UnavailableError) as raised:
        recovery.pause_s(GONE, None)
    assert raised.value is BROKEN


def test_pauses_are_as_long_as_the_gateway_asks_for(recovery):
    error = UnavailableError("wait", ErrorDetails(reason="WORKER_DIED", retry_after_s=3.0))
    assert recovery.pause_s(error, None) == 3.0


def test_it_is_given_up_after_a_minute_without_news(recovery, clock):
    recovery.pause_s(BROKEN, None)
    clock.now_s = 30
    recovery.is_news(delta(0, 1))
    recovery.pause_s(BROKEN, None)
    clock.now_s = 89
    recovery.pause_s(BROKEN, None)
    clock.now_s = 90
    with pytest.raises(UnavailableError):
        recovery.pause_s(UnavailableError("again", ErrorDetails()), None)


def test_no_pause_goes_beyond_the_deadline(recovery):
    with pytest.raises(UnavailableError):
        recovery.pause_s(BROKEN, 0.01)


@pytest.mark.parametrize("events", [(), (STARTED, COMPLETED)])
def test_what_has_not_begun_or_is_over_is_not_resumed(events):
    recovery = Recovery(is_wanted=True)
    for event in events:
        recovery.is_news(event)
    with pytest.raises(UnavailableError):
        recovery.pause_s(BROKEN, None)
    assert recovery.farewell() is None


def test_who_wants_no_repetitions_gets_none():
    recovery = Recovery(is_wanted=False)
    recovery.is_news(STARTED)
    with pytest.raises(UnavailableError):
        recovery.pause_s(BROKEN, None)
    assert recovery.farewell() is None


def test_farewell_is_said_once(recovery):
    assert recovery.farewell().method.endswith("/CancelGenerate")
    assert recovery.farewell() is None
