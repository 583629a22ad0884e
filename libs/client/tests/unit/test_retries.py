import pytest
from tenacity import Retrying

from caravan_client.errors import (
    CallCancelledError,
    ErrorDetails,
    GatewayUnreachableError,
    NotFoundError,
    RateLimitedError,
    UnavailableError,
)
from caravan_client.retries import LONGEST_WAIT_S, retry_rules


def attempt(failures: list[Exception], *, max_retries: int = 2, timeout_s: float | None = None):
    """Runs a call that fails so; returns how long was slept between the attempts."""
    slept: list[float] = []
    remaining = list(failures)

    def call() -> str:
        if remaining:
            raise remaining.pop(0)
        return "answer"

    Retrying(sleep=slept.append, **retry_rules(max_retries, timeout_s))(call)
    return slept


def test_what_a_server_cancels_that_shuts_down_is_repeated_and_nothing_else_that_is_cancelled():
    assert len(attempt([CallCancelledError("", ErrorDetails(code="CANCELLED"))])) == 1
    with pytest.raises(CallCancelledError):
        attempt([CallCancelledError("", ErrorDetails(code="CANCELLED", reason="CANCELLED"))])


def unavailable(retry_after_s: float | None = None) -> UnavailableError:
    return UnavailableError("no", ErrorDetails(retry_after_s=retry_after_s))


def test_server_decides_how_long_is_waited():
    assert attempt([unavailable(3.5), unavailable(0.25)]) == [3.5, 0.25]


def test_without_its_word_the_wait_is_short_and_random():
    waits = attempt([GatewayUnreachableError("no"), unavailable()])
    assert len(waits) == 2
    assert all(0.1 <= wait <= 5 for wait in waits)


def test_what_a_gateway_that_stops_cut_off_unseen_is_repeated():
    assert len(attempt([CallCancelledError("CANCELLED")])) == 1


@pytest.mark.parametrize(
    "error",
    [
        NotFoundError("no"),
        RateLimitedError("no"),
        ValueError("no"),
        CallCancelledError("Locally cancelled by application!"),
        CallCancelledError("the caller left", ErrorDetails(reason="CANCELLED")),
    ],
)
def test_other_failures_are_not_repeated(error):
    with pytest.raises(type(error)):
        attempt([error])


@pytest.mark.parametrize("max_retries", [0, 1, 2])
def test_number_of_repetitions_is_bounded(max_retries):
    with pytest.raises(UnavailableError):
        attempt([unavailable(0)] * (max_retries + 1), max_retries=max_retries)
    assert len(attempt([unavailable(0)] * max_retries, max_retries=max_retries)) == max_retries


def test_wait_that_is_too_long_is_left_to_the_caller():
    with pytest.raises(UnavailableError):
        attempt([unavailable(LONGEST_WAIT_S + 1)])
    with pytest.raises(UnavailableError):
        attempt([unavailable(5)], timeout_s=4)
