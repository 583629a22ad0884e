"""Models, principals, keys and the state of a deployment, as frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class ModelState(StrEnum):
    """What the engine is doing with a model."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"
    UNKNOWN = "unknown"  # a state that is newer than this client


class ReplicaState(StrEnum):
    """Where a worker process stands."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    RESTARTING = "restarting"
    FAILED = "failed"
    UNKNOWN = "unknown"


class LoadPhase(StrEnum):
    """What loading a model is doing."""

    VERIFYING = "verifying"
    PLANNING = "planning"
    LOADING = "loading"
    WARMING_UP = "warming_up"
    READY = "ready"
    UNKNOWN = "unknown"


class ApiKeyState(StrEnum):
    """Whether a key works."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


class SpanKind(StrEnum):
    """Which side of a call between processes a span is."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"
    UNKNOWN = "unknown"


class SpanStatus(StrEnum):
    """How the work of a span ended."""

    UNSET = "unset"
    OK = "ok"
    ERROR = "error"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """What is known of a model once it was loaded."""

    architecture: str
    description: str
    context_tokens: int
    num_cells: int
    vocabulary_size: int
    num_layers: int
    has_chat_template: bool


@dataclass(frozen=True, slots=True)
class Replica:
    """One worker process of a model."""

    index: int
    state: ReplicaState
    num_restarts: int
    state_detail: str
    process_id: int | None


@dataclass(frozen=True, slots=True)
class Model:
    """A GGUF file that the deployment can serve; `details` is None until it was loaded once."""

    name: str
    aliases: tuple[str, ...]
    state: ModelState
    state_detail: str
    digest: str
    size_bytes: int
    details: ModelDetails | None
    replicas: tuple[Replica, ...]


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """A step of loading: how much of its phase is done, 0 to 1; sizes are 0 until planned."""

    phase: LoadPhase
    fraction: float
    model: Model
    needed_bytes: int
    budget_bytes: int


@dataclass(frozen=True, slots=True)
class UnloadedModel:
    """How unloading ended: the model, and how many requests were ended for it."""

    model: Model
    num_ended_requests: int


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody, or a program, that may call."""

    name: str
    tenant: str
    roles: tuple[str, ...]
    priority_cap: int
    create_time: datetime | None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A credential of a principal, without its secret."""

    id: str
    principal: str
    tenant: str
    description: str
    state: ApiKeyState
    create_time: datetime | None
    expire_time: datetime | None
    revoke_time: datetime | None


@dataclass(frozen=True, slots=True)
class CreatedApiKey:
    """A new key with its secret, which is not stored and never shown again."""

    key: ApiKey
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RoleDefinition:
    """A named set of permissions."""

    name: str
    permissions: tuple[str, ...]
    priority_cap: int


@dataclass(frozen=True, slots=True)
class Dependency:
    """A service behind the gateway, as the gateway sees it."""

    service: str
    address: str
    reachable: bool
    detail: str


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """How a deployment is at this moment."""

    version: str
    start_time: datetime | None
    serving: bool
    dependencies: tuple[Dependency, ...]
    models: tuple[Model, ...]
    num_active_calls: int
    num_spooled_records: int


@dataclass(frozen=True, slots=True)
class DroppedPages:
    """How many pages of a tenant were forgotten, by how many workers."""

    num_pages: int
    num_workers: int


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """A moment within a span."""

    name: str
    time: datetime | None


@dataclass(frozen=True, slots=True)
class Span:
    """One stretch of work of one process; `parent_span_id` is empty at the root of a trace."""

    trace_id: str
    span_id: str
    parent_span_id: str
    service: str
    name: str
    kind: SpanKind
    start_time: datetime | None
    duration_ms: float
    status: SpanStatus
    attributes: Mapping[str, str]
    events: tuple[SpanEvent, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """Where the time of a call went, by start; `truncated` says that there were more spans."""

    request_id: str
    spans: tuple[Span, ...]
    truncated: bool
