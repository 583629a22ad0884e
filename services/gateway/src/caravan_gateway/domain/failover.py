"""When a call that lost its worker goes on, and for how long it looks for another one."""

from dataclasses import dataclass
from enum import StrEnum, auto

from caravan_gateway.domain.errors import (
    DependencyUnavailableError,
    GatewayError,
    ModelDrainingError,
    ModelLoadingError,
    WorkerDiedError,
)


class Loss(StrEnum):
    """How a call lost its worker."""

    DIED = auto()  # the process, or the way to it
    REPLACED = auto()  # another worker has its port now
    LEAVING = auto()  # it is being drained
    FULL = auto()  # its queue has no place; a loss only for a call that has begun


class FailoverOutcome(StrEnum):
    """What became of a call that lost its worker."""

    CONTINUED = auto()
    GIVEN_UP = auto()
    POISON = auto()
    ENDED = auto()  # by its caller or its deadline, while it waited


GONE = frozenset({Loss.DIED, Loss.REPLACED})
"""Losses after which the worker isn't there any more."""


@dataclass(frozen=True, slots=True)
class FailoverRules:
    """How long a call waits for a worker, and how often it looks for one."""

    timeout_s: float = 30.0  # without any sign of a worker; 0: calls end with their worker
    first_pause_s: float = 0.01
    max_pause_s: float = 0.2


_PASSING = (
    WorkerDiedError,  # it is being restarted
    ModelLoadingError,
    ModelDrainingError,  # unloaded soon, or its host comes back
    DependencyUnavailableError,  # the host is away
)


def may_pass(reason: GatewayError) -> bool:
    """Whether a reason for which no worker takes a call may be gone soon."""
    return isinstance(reason, _PASSING)
