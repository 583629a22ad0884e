"""A request as the scheduler knows it: tokenized, with every default filled in."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from caravan_engine.domain.errors import (
    EmptyInputError,
    InvalidFieldError,
    TokenOutOfRangeError,
)
from caravan_engine.domain.model_facts import Pooling
from caravan_engine.domain.ports import Vocabulary
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_rpckit.errors import FieldViolation

DEFAULT_MAX_OUTPUT_TOKENS = 256
DEFAULT_PRIORITY = 10
MAX_PRIORITY = 100
MAX_STOPS = 16
MAX_STOP_BYTES = 256
MAX_CHOICES = 16
MAX_TOP_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class ClientKey:
    """Whose request it is; the gateway says so. Capacity is shared fairly between clients."""

    tenant: str = "default"
    principal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedRequest:
    """What waits for seats: tokens to compute, how urgently, and until when.

    Raises:
        EmptyInputError: without prompt tokens.
        InvalidFieldError: for every field out of bounds, all at once.
    """

    request_id: str
    prompt: tuple[int, ...]
    priority: int = DEFAULT_PRIORITY  # more is sooner
    deadline: float | None = None  # a moment of the engine's monotonic clock
    client: ClientKey = ClientKey()
    is_of_session: bool = False  # a turn of a conversation that is likely to go on

    def __post_init__(self) -> None:
        if not self.prompt:
            raise EmptyInputError
        violations = tuple(self._violations())
        if violations:
            raise InvalidFieldError(*violations)

    @property
    def is_begun(self) -> bool:
        """Whether another worker accepted it before, so that it gives way to no newcomer."""
        return False

    def _violations(self) -> Iterator[FieldViolation]:
        if not 0 <= self.priority <= MAX_PRIORITY:
            yield FieldViolation("priority", f"must be between 0 and {MAX_PRIORITY}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingRequest(QueuedRequest):
    """One input whose vector is wanted."""

    pooling: Pooling


@dataclass(frozen=True, slots=True)
class Emitted:
    """What a client has of a choice that another worker began."""

    tokens: tuple[int, ...] = ()
    is_finished: bool = False
    mirostat_mu: float | None = None  # after the last of the tokens


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a client has of a whole request: of each choice, and of its first event."""

    choices: tuple[Emitted, ...]
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest(QueuedRequest):
    """One client's call for text."""

    sampling: SamplingOptions
    seed: int  # uint64
    stop: tuple[str, ...] = ()
    max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS
    ignore_eos: bool = False
    choice_count: int = 1
    num_top_logprobs: int | None = None  # named beside each token; None: no log-probabilities
    continuation: Continuation | None = None  # of a request that another worker began

    @property
    def is_begun(self) -> bool:
        """See `QueuedRequest`."""
        return self.continuation is not None

    def emitted(self, choice_index: int) -> Emitted:
        """Returns what the client has of a choice."""
        return self.continuation.choices[choice_index] if self.continuation else Emitted()

    def _violations(self) -> Iterator[FieldViolation]:
        yield from QueuedRequest._violations(self)
        if not 1 <= self.choice_count <= MAX_CHOICES:
            yield FieldViolation("choice_count", f"must be between 1 and {MAX_CHOICES}")
        if self.num_top_logprobs is not None and not 0 <= self.num_top_logprobs <= MAX_TOP_LOGPROBS:
            path, limit = "logprobs.top_count", MAX_TOP_LOGPROBS
            yield FieldViolation(path, f"must be between 0 and {limit}")
        if not 0 <= self.seed < 2**64:
            yield FieldViolation("seed", "must be an unsigned 64-bit number")
        if self.max_output_tokens < 1:
            yield FieldViolation("max_output_tokens", "must be at least 1")
        if self.continuation:
            yield from self._faults_of(self.continuation)
        if len(self.stop) > MAX_STOPS:
            yield FieldViolation("stop", f"at most {MAX_STOPS} strings")
        for index, stop in enumerate(self.stop):
            if not 1 <= len(stop.encode()) <= MAX_STOP_BYTES:
                yield FieldViolation(f"stop[{index}]", f"must have 1 to {MAX_STOP_BYTES} bytes")

    def _faults_of(self, continuation: Continuation) -> Iterator[FieldViolation]:
        if len(continuation.choices) != self.choice_count:
            yield FieldViolation("continuation.choices", "must be one for each choice")
        for index, emitted in enumerate(continuation.choices):
            path, mu = f"continuation.choices[{index}]", emitted.mirostat_mu
            if len(emitted.tokens) > self.max_output_tokens:
                yield FieldViolation(f"{path}.token_ids", "more than max_output_tokens")
            if mu is not None and not math.isfinite(mu):
                yield FieldViolation(f"{path}.mirostat_mu", "must be finite")


def check_token_ids(token_ids: Sequence[int], vocabulary: Vocabulary) -> None:
    """Refuses what isn't a token.

    Raises:
        TokenOutOfRangeError: for an id outside the vocabulary.
    """
    size = vocabulary.size
    for index, token_id in enumerate(token_ids):
        if not 0 <= token_id < size:
            raise TokenOutOfRangeError(index=index, token_id=token_id, vocabulary_size=size)


def check_client_tokens(token_ids: Sequence[int], vocabulary: Vocabulary) -> None:
    """Refuses what a client may not put into a tokenized input.

    Raises:
        TokenOutOfRangeError: for an id outside the vocabulary or of control type.
    """
    size, control_tokens = vocabulary.size, vocabulary.control_tokens
    for index, token_id in enumerate(token_ids):
        if not 0 <= token_id < size or token_id in control_tokens:
            raise TokenOutOfRangeError(index=index, token_id=token_id, vocabulary_size=size)


def check_logit_bias(options: SamplingOptions, vocabulary: Vocabulary) -> None:
    """Refuses biases of tokens that don't exist.

    Raises:
        InvalidFieldError: for an id outside the vocabulary.
    """
    violations = tuple(
        FieldViolation(f"sampling.logit_bias[{token_id}]", f"not among {vocabulary.size} tokens")
        for token_id in options.logit_bias
        if not 0 <= token_id < vocabulary.size
    )
    if violations:
        raise InvalidFieldError(*violations)
