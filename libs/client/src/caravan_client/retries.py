"""When a call is repeated, and after how long.

Only UNAVAILABLE is repeated, and what a gateway cancels that shuts down, and only before anything
of the answer has arrived: later the text would begin anew. gRPC's own retries are not used: they
know nothing of RetryInfo, and count a call as answered once its headers are there, which may be
long before the first token.
"""

from typing import TypedDict

from tenacity import RetryCallState, retry_if_exception, stop_after_attempt, stop_before_delay
from tenacity.retry import retry_base
from tenacity.stop import stop_base
from tenacity.wait import wait_base, wait_random_exponential

from caravan_client.errors import CallCancelledError, UnavailableError

# Longer waits than this are left to the caller, who knows whether they are worth it.
LONGEST_WAIT_S = 30.0

_BACKOFF = wait_random_exponential(multiplier=0.2, min=0.1, max=5.0)


class RetryRules(TypedDict):
    """Keyword arguments for tenacity's `Retrying` and `AsyncRetrying`."""

    retry: retry_base
    wait: wait_base
    stop: stop_base
    reraise: bool


def retry_rules(max_retries: int, timeout_s: float | None) -> RetryRules:
    """The rules for one call.

    Args:
        max_retries: how often to repeat at most.
        timeout_s: no wait begins that would end after so many seconds since the first attempt.
    """
    stop: stop_base = stop_after_attempt(max_retries + 1)
    if timeout_s is not None:
        stop = stop | stop_before_delay(timeout_s)
    return RetryRules(retry=retry_if_exception(_may_pass), wait=_Wait(), stop=stop, reraise=True)


class _Wait(wait_base):
    """What the server asked for, else exponential backoff with jitter."""

    def __call__(self, retry_state: RetryCallState) -> float:
        asked = _asked_wait_s(retry_state.outcome.exception() if retry_state.outcome else None)
        return _BACKOFF(retry_state) if asked is None else asked


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, CallCancelledError):
        return _is_cut_off(error)
    return isinstance(error, UnavailableError) and (_asked_wait_s(error) or 0) <= LONGEST_WAIT_S


def _is_cut_off(error: CallCancelledError) -> bool:
    """Whether a gateway that stops ended the call before it looked at it.

    That is gRPC's own CANCELLED, without details. Whoever cancels here is told that it was here.
    """
    return not error.details.reason and "locally" not in error.message.lower()


def _asked_wait_s(error: BaseException | None) -> float | None:
    return error.retry_after_s if isinstance(error, UnavailableError) else None
