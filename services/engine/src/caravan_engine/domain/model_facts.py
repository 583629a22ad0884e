"""What a loaded model says of itself, and what holds it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Pooling(StrEnum):
    """How a model makes one vector of a text."""

    UNSPECIFIED = "unspecified"
    NONE = "none"
    MEAN = "mean"
    CLS = "cls"
    LAST = "last"
    RANK = "rank"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """Immutable, known once a model is loaded."""

    architecture: str
    description: str
    size_bytes: int
    num_layers: int
    embedding_size: int
    trained_context_tokens: int
    num_cells: int  # as llama.cpp made it, which may be more than asked for
    chat_template: str | None
    bos: int | None
    eos: int | None
    has_encoder: bool
    is_recurrent: bool  # its state can't be cut at a position
    pooling: Pooling
    metadata: Mapping[str, str]  # scalars of the GGUF header


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """The memory of a device that holds a part of a model, of all who use it."""

    name: str
    used_bytes: int
    total_bytes: int
