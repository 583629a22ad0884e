"""Vectors of texts, as frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Required

from caravan_client.generation import CallOptions, Usage


class Pooling(StrEnum):
    """How the vectors of an input's tokens became one."""

    MEAN = "mean"
    CLS = "cls"
    LAST = "last"
    UNKNOWN = "unknown"  # a way that is newer than this client


class EmbedOptions(CallOptions, total=False):
    """Keyword arguments of `embed`."""

    model: Required[str]
    """Name or alias of the model."""
    priority: int
    """0 to 100, more is sooner; capped by the caller's role."""
    labels: Mapping[str, str]
    """Free marks copied into the usage record."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """The vector of one input; its length is 1."""

    values: tuple[float, ...] = field(repr=False)
    input_tokens: int


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The vectors of a call, in the order of its inputs."""

    request_id: str
    model: str
    model_digest: str
    embeddings: tuple[Embedding, ...]
    pooling: Pooling
    usage: Usage
