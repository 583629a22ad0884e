"""What one asks of a model and what it answers, as frozen values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Required, TypedDict


class Role(StrEnum):
    """Who speaks in a chat."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class FinishReason(StrEnum):
    """Why a text ended."""

    END_OF_TEXT = "end_of_text"
    STOP_STRING = "stop_string"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"
    UNKNOWN = "unknown"  # a reason that is newer than this client


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str

    @classmethod
    def system(cls, content: str) -> "Message":
        """Instructions to the model."""
        return cls(Role.SYSTEM, content)

    @classmethod
    def user(cls, content: str) -> "Message":
        """What the person or program says."""
        return cls(Role.USER, content)

    @classmethod
    def assistant(cls, content: str) -> "Message":
        """What the model said."""
        return cls(Role.ASSISTANT, content)


@dataclass(frozen=True, slots=True)
class SamplerOptions:
    """Base of the options of one sampler; giving them, even empty, turns it on."""


@dataclass(frozen=True, slots=True)
class Dry(SamplerOptions):
    """Penalizes repeating sequences by multiplier * base ^ (length - allowed_length)."""

    multiplier: float
    base: float | None = None
    allowed_length: int | None = None
    penalty_last_n: int | None = None
    sequence_breakers: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Xtc(SamplerOptions):
    """Drops top choices, as often as `probability` says."""

    probability: float
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Mirostat(SamplerOptions):
    """Mirostat 2: steers towards a level of surprise, in place of the samplers that cut."""

    tau: float | None = None
    eta: float | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How each token is chosen; None leaves the default to the server.

    Ranges and defaults are those of `caravan.inference.v1.SamplingOptions`; the server checks them.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    penalty_last_n: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    typical_p: float | None = None
    dry: Dry | None = None
    xtc: Xtc | None = None
    mirostat: Mirostat | None = None


class CallOptions(TypedDict, total=False):
    """Keyword arguments that every call takes."""

    timeout_s: float | None
    """Most seconds for the call with its retries; None is without limit."""
    request_id: str
    """Names the call in logs, traces and usage; drawn for each attempt when left out."""
    traceparent: str
    """W3C trace context of what the call is a part of; else that of the program's own tracing."""


class GenerateOptions(CallOptions, total=False):
    """Keyword arguments of `generate`, `stream`, `chat` and `stream_chat`."""

    model: Required[str]
    """Name or alias of the model."""
    sampling: Sampling
    """How tokens are chosen."""
    stop: str | Sequence[str]
    """Strings that end the text, which then does not contain them."""
    max_output_tokens: int
    """Most tokens to generate; 256 when left out."""
    seed: int
    """Start of every random draw; drawn by the gateway when left out."""
    ignore_eos: bool
    """Go on when the model wants to end."""
    priority: int
    """0 to 100, more is sooner; capped by the caller's role."""
    labels: Mapping[str, str]
    """Free marks copied into the usage record."""
    num_choices: int
    """How many texts to generate from the one input, 1 to 16; 1 when left out."""
    logprobs: int
    """Asks for log-probabilities, with so many of the best tokens at each place, 0 to 20."""
    session_id: str
    """Names the conversation, whose computation is then kept longer for the next turn."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call used, in tokens."""

    input_tokens: int
    cached_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and its log-probability."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """How probable a generated token was, and what else could have been, best first."""

    logprob: float
    top: tuple[TokenLogprob, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One generated text."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    stop_string: str | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """A whole answer."""

    request_id: str
    model: str
    model_digest: str
    seed: int
    choices: tuple[Choice, ...]
    usage: Usage

    @property
    def text(self) -> str:
        """The text of the first choice."""
        return self.choices[0].text if self.choices else ""

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first choice ended."""
        return self.choices[0].finish_reason if self.choices else FinishReason.UNKNOWN


@dataclass(frozen=True, slots=True)
class Started:
    """First event: what the generation runs on."""

    request_id: str
    model: str
    model_digest: str
    seed: int
    input_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of a choice; several tokens may ride in one."""

    choice_index: int
    text: str
    token_ids: tuple[int, ...]
    token_offset: int
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """A choice ended."""

    choice_index: int
    finish_reason: FinishReason
    output_tokens: int
    stop_string: str | None = None


@dataclass(frozen=True, slots=True)
class Completed:
    """Last event of a stream that went well."""

    usage: Usage


Event = Started | Delta | Finished | Completed
