"""What happens to a request, as far as somebody who goes on with it has to know."""

from dataclasses import dataclass
from typing import NewType

Handle = NewType("Handle", int)
"""Names a request among those of one journal; the earlier one has the lower number."""


@dataclass(frozen=True, slots=True)
class RequestBegan:
    """A request is there: it waits or is computed from now on."""

    handle: Handle
    request: bytes  # opaque: whatever is needed to send it again, and whose it is
    began_ms: int  # wall clock; for people only, it may be wrong


@dataclass(frozen=True, slots=True)
class ComputationBegan:
    """It got its seat, and its client was told so."""

    handle: Handle
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class TokensLeft:
    """Tokens of a choice went to the client."""

    handle: Handle
    choice_index: int
    offset: int  # tokens that had left before
    tokens: tuple[int, ...]
    mirostat_mu: float | None = None  # after the last of them


@dataclass(frozen=True, slots=True)
class ChoiceFinished:
    """A choice is over; the client knows."""

    handle: Handle
    choice_index: int


@dataclass(frozen=True, slots=True)
class RequestEnded:
    """A request is over, or nobody may go on with it any more."""

    handle: Handle


Record = RequestBegan | ComputationBegan | TokensLeft | ChoiceFinished | RequestEnded
