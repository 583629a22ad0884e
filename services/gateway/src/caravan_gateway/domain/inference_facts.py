"""What the gateway looks at in the events of a worker."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StartedFacts:
    """The worker took the request."""

    model_digest: str
    input_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True)
class DeltaFacts:
    """New tokens of a choice, and how many it had before them.

    `mirostat_mu` is that after the last of them, where Mirostat is used.
    """

    choice_index: int
    token_offset: int
    token_ids: Sequence[int]
    mirostat_mu: float | None = None

    @property
    def output_tokens(self) -> int:
        """How many tokens the choice has with these."""
        return self.token_offset + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class FinishedFacts:
    """A choice ended."""

    choice_index: int
    finish_reason: str
    output_tokens: int


@dataclass(frozen=True, slots=True)
class CompletedFacts:
    """The generation ended well; always the last event."""

    input_tokens: int
    cached_tokens: int
    output_tokens: int
    queue_ms: float


RunFacts = StartedFacts | DeltaFacts | FinishedFacts | CompletedFacts
