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


class KvUnit(StrEnum):
    """What the memory of a model is shared, moved and kept by."""

    PAGES = "pages"
    SEQUENCES = "sequences"  # wholes, because it can't be divided or paging is off
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
    kv_unit: KvUnit


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


class JournalState(StrEnum):
    """Whether a worker writes requests down."""

    OFF = "off"  # or its folder can't be used
    WRITTEN = "written"
    GIVEN_UP = "given_up"  # the disk took nothing; it is tried again


class RequestState(StrEnum):
    """Where a request in a journal is."""

    WAITING = "waiting"
    RUNNING = "running"
    RECOVERABLE = "recoverable"  # an earlier worker began it, nobody has asked for the rest yet


@dataclass(frozen=True, slots=True)
class RequestCheckpoint:
    """A request in a worker's journal, and whose it is."""

    request_id: str
    tenant: str
    principal: str
    state: RequestState | None
    output_tokens: int
    begin_time: datetime | None


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """What the next worker would find of one. `requests` are the first thousand at most."""

    model: str
    replica: int
    journal: JournalState | None
    journal_bytes: int
    num_journal_failures: int
    num_requests_left_out: int
    num_pages: int
    page_bytes: int
    num_pages_pending: int
    num_requests: int
    requests: tuple[RequestCheckpoint, ...]


@dataclass(frozen=True, slots=True)
class PrunedCheckpoints:
    """How many requests and pages were given up, by how many workers."""

    num_requests: int
    num_pages: int
    num_workers: int


@dataclass(frozen=True, slots=True)
class DrainedWorkers:
    """How many workers were emptied, and how many requests they didn't finish in time.

    Those went on on other workers of the model, where there were any.
    """

    num_workers: int
    num_unfinished_requests: int


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """Where what a worker has computed lies; of cells some are free, the rest is counted here."""

    kept_by: KvUnit
    page_tokens: int  # of a full page; 0 with whole sequences
    num_cells: int
    num_running_cells: int  # hold what running sequences need
    num_idle_cells: int  # hold only pages that nobody uses
    highest_used_cell: int  # counted from 1; on a CPU the cost of each step depends on it
    num_cell_pages: int  # full pages that all cells in use would make
    num_idle_pages: int  # in cells
    num_host_pages: int
    host_bytes: int
    host_budget_bytes: int
    num_disk_pages: int
    disk_bytes: int
    disk_budget_bytes: int
    num_disk_reads_pending: int


@dataclass(frozen=True, slots=True)
class WorkerStats:
    """The numbers of one worker; totals count from the start of its process."""

    model: str
    replica: int
    num_running: int  # sequences with a seat, paused ones included
    num_paused: int  # those of them that wait for their reader
    num_seats: int
    num_parked: int  # requests that gave up their seats and go on later
    num_waiting: int
    waiting_by_priority: Mapping[int, int]
    tokens_per_s: float  # generated, over the last ten seconds
    input_tokens: int
    output_tokens: int
    prefix_query_tokens: int  # input tokens that were looked up
    prefix_hit_tokens: int  # and found
    num_parkings: int
    num_pages_restored: int
    num_pages_evicted: int
    resident_bytes: int
    memory: WorkerMemory

    @property
    def cache_hit_rate(self) -> float | None:
        """The share of looked-up tokens that was found, 0 to 1; None before the first."""
        looked_up = self.prefix_query_tokens
        return self.prefix_hit_tokens / looked_up if looked_up else None


@dataclass(frozen=True, slots=True)
class WorkersReport:
    """The numbers of the workers that are ready; `missing_hosts` did not answer."""

    workers: tuple[WorkerStats, ...]
    missing_hosts: tuple[str, ...]


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
