"""What the host says of its models: values only."""

from dataclasses import dataclass
from enum import StrEnum

from caravan_engine.control.events import LoadPhase, ModelDetails
from caravan_engine.host.supervisor import ReplicaState


class ModelState(StrEnum):
    """Sums up a model's replicas."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """One worker of a model."""

    index: int
    state: ReplicaState
    restart_count: int
    detail: str
    process_id: int | None


@dataclass(frozen=True, slots=True)
class EndpointView:
    """A worker that takes requests, and the port it does so on."""

    model: str
    digest: str
    replica_index: int
    worker_id: str
    port: int


@dataclass(frozen=True, slots=True)
class ModelView:
    """A model as it is now. `digest` is empty until it is known."""

    name: str
    aliases: tuple[str, ...]
    state: ModelState
    detail: str
    digest: str
    size_bytes: int
    details: ModelDetails | None
    replicas: tuple[ReplicaView, ...]


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """A step of loading. The bytes are 0 until the memory was planned."""

    phase: LoadPhase
    fraction: float
    needed_bytes: int = 0
    budget_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything a gateway needs to know."""

    models: tuple[ModelView, ...] = ()
    endpoints: tuple[EndpointView, ...] = ()
    leaving: bool = False  # the host is shutting down
