"""What a generation is asked for, without its prompt: only what the gateway judges.

Sizes stand in for texts, so that no prompt can leak from here into a log or an error.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TextInput:
    """Plain text of so many characters."""

    length: int


@dataclass(frozen=True, slots=True)
class TokenInput:
    """So many tokens."""

    count: int


@dataclass(frozen=True, slots=True)
class ChatInput:
    """A conversation; one entry per turn says whether its role is known."""

    known_roles: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen; None where the client left it to the default."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    penalty_last_n: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GenerationSpec:
    """One request. `stop_sizes` are in bytes, in order."""

    model: str
    input: TextInput | TokenInput | ChatInput | None
    sampling: Sampling = Sampling()
    stop_sizes: tuple[int, ...] = ()
    max_output_tokens: int | None = None
    seed: int | None = None
    priority: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
