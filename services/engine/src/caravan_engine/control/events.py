"""What a worker tells its host: one JSON object per line on the worker's standard output.

Owns the events and their encoding. The other direction has no messages beside the settings at the
start: the host keeps the worker's standard input open, and its end is the order to end.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from caravan_engine.domain.kv_numbers import KvUnit
from caravan_rpckit.errors import Reason

MAX_LINE_BYTES = 64 * 1024


class LoadPhase(StrEnum):
    """What loading a model is doing, in order; the first two are the host's own."""

    VERIFYING = "verifying"
    PLANNING = "planning"
    LOADING = "loading"
    WARMING_UP = "warming_up"
    READY = "ready"


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelDetails(_Event):
    """What is known of a model once it is loaded."""

    architecture: str
    description: str
    context_tokens: int
    cell_count: int
    vocabulary_size: int
    layer_count: int
    has_chat_template: bool
    kv_unit: KvUnit = KvUnit.PAGES


class Progress(_Event):
    """Loading goes on; `fraction` of the phase is done, 0 to 1."""

    event: Literal["progress"] = "progress"
    phase: LoadPhase
    fraction: float = Field(ge=0, le=1)


class Ready(_Event):
    """The worker takes requests on `port`."""

    event: Literal["ready"] = "ready"
    port: int = Field(ge=1, le=65535)
    details: ModelDetails


class Failed(_Event):
    """The worker ends, and why. `message` and `metadata` may be shown to clients."""

    event: Literal["failed"] = "failed"
    reason: Reason
    message: str = Field(max_length=4096)
    metadata: dict[str, str] = Field(default_factory=dict)


ControlEvent = Progress | Ready | Failed

_ADAPTER: TypeAdapter[ControlEvent] = TypeAdapter(
    Annotated[ControlEvent, Field(discriminator="event")]
)


class ControlError(ValueError):
    """A line is not a control event."""


def encode(event: ControlEvent) -> bytes:
    """Returns the line that says `event`, newline included."""
    return event.model_dump_json().encode() + b"\n"


def decode(line: bytes) -> ControlEvent:
    """Reads one line.

    Raises:
        ControlError: it is none of the events.
    """
    try:
        return _ADAPTER.validate_json(line)
    except ValidationError as error:
        raise ControlError(f"not a control event ({error.error_count()} faults)") from error
