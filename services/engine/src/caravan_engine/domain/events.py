"""What a generation tells its reader, in order: started, deltas, finished, completed."""

from dataclasses import dataclass
from enum import StrEnum


class FinishReason(StrEnum):
    """Why a sequence ended well."""

    END_OF_TEXT = "end_of_text"
    STOP_STRING = "stop_string"
    LENGTH = "length"


FINISHES = frozenset(reason.value for reason in FinishReason)
"""How observers are told of the same."""


@dataclass(frozen=True, slots=True)
class Started:
    """The request has a seat and is about to be computed."""

    input_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token that could have been next, and the logarithm of how probable it was."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """How probable a generated token was, and the most probable ones, best first."""

    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """New text of one choice and the tokens it consists of."""

    choice_index: int
    text: str
    token_ids: tuple[int, ...]
    token_offset: int  # tokens of this choice before these
    logprobs: tuple[TokenLogprobs, ...] = ()  # one for each token, where asked for
    mirostat_mu: float | None = None  # after the last of the tokens, where Mirostat is used


@dataclass(frozen=True, slots=True)
class Finished:
    """One choice is over; `output_tokens` is the sum over its deltas."""

    choice_index: int
    reason: FinishReason
    stop_string: str | None
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a request's time went, in seconds."""

    queue_s: float  # arrival to the first computation
    prefill_s: float  # first computation to the first token
    decode_s: float  # first token to the last


@dataclass(frozen=True, slots=True)
class Completed:
    """The request is over and went well; always last."""

    input_tokens: int
    cached_tokens: int
    output_tokens: int
    timings: Timings


Event = Started | Delta | Finished | Completed
