"""What is asked of a model, without texts: only what the gateway judges.

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


Input = TextInput | TokenInput | ChatInput


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceSpec:
    """What every request says: which model, how soon, and marks for its usage record."""

    model: str
    priority: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizeSpec(InferenceSpec):
    """A text or a chat to split."""

    input: TextInput | ChatInput | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DetokenizeSpec(InferenceSpec):
    """So many tokens to write out."""

    id_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedSpec(InferenceSpec):
    """Texts to turn into vectors; None for one that holds nothing."""

    inputs: tuple[TextInput | TokenInput | None, ...]
