"""The engine's settings tree. Read once at the start; workers get their part of it as JSON.

Every description names the unit and what 0 or `none` means.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from caravan_engine.handover_settings import HandoverSettings
from caravan_engine.journal_settings import JournalSettings
from caravan_engine.retention_settings import RetentionSettings
from caravan_engine.setting_names import LLAMA_CPP_NAMES
from caravan_servicekit.addresses import Address
from caravan_servicekit.settings import Section, ServiceSettings


class KvType(StrEnum):
    """How the KV cache stores numbers."""

    F16 = "f16"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"


class PageCodec(StrEnum):
    """How pages on disk are compressed."""

    NONE = "none"
    ZSTD = "zstd"


class IdlePages(StrEnum):
    """Where pages stay that nobody uses."""

    AUTO = "auto"
    CELLS = "cells"
    HOST = "host"


MAX_SEQUENCE_IDS = 256
"""As many as llama.cpp has."""
SCRATCH_SEQUENCE_IDS = 1
"""For pages on their way out of the cells and in again."""

DISK_QUEUE_BYTES = 64 * 2**20
"""Most bytes of pages that wait to be written to disk; what comes faster is not kept there."""

MAX_REPLICAS = 64
"""Most workers of one model on a host."""

_HOST = r"^[A-Za-z0-9._-]+$"


class ServerSettings(Section):
    """Where the host listens."""

    address: Address = Field(
        "127.0.0.1:50052",
        description="host:port of the gRPC listener (mutual TLS); port 0 takes a free one.",
    )
    ops_address: Address = Field(
        "127.0.0.1:9092",
        description="host:port of `/metrics`, `/health/live`, `/health/ready`; port 0 takes a "
        "free one.",
    )
    max_watchers: int = Field(
        64, ge=1, description="Most gateways that may watch endpoints at once."
    )


class ModelsSettings(Section):
    """Which models there are."""

    directory: Path | None = Field(
        None, description="Folder of `*.gguf` files; `none` means `<home>/models`."
    )
    path: Path | None = Field(
        None,
        description="A GGUF file to serve under its stem, loaded at the start "
        "(`CARAVAN_MODEL`, `--model`).",
    )
    load: tuple[str, ...] = Field(
        ("bundled",), description="Models to load at the start, by name, beside `models.path`."
    )
    replicas: int = Field(
        1, ge=1, le=MAX_REPLICAS, description="Workers of each model that is loaded at the start."
    )
    rescan_interval_s: float = Field(
        5.0, ge=0, description="Seconds between looks at the folder; 0 looks only when asked."
    )


class WorkersSettings(Section):
    """How worker processes are placed, started and ended."""

    listen_host: str = Field(
        "127.0.0.1", pattern=_HOST, description="IPv4 address or name that workers listen on."
    )
    advertised_host: str = Field(
        "127.0.0.1", pattern=_HOST, description="Host by which gateways reach the workers."
    )
    port_base: int = Field(
        50060, ge=0, le=65279, description="First worker port; 0 takes any free one."
    )
    memory_budget_bytes: int = Field(
        0,
        ge=0,
        description="Bytes that all models together may use; 0 means 0.9 of what is available at "
        "the start, within the control group's limit.",
    )
    start_silence_s: float = Field(
        180.0,
        gt=0,
        description="Seconds that a starting worker may stay without a sign of progress.",
    )
    hang_timeout_s: float = Field(
        120.0,
        ge=0,
        description="Seconds that a ready worker may make no step while work waits, or say "
        "nothing, before it is killed and restarted; more than its longest step takes. "
        "0 never kills it.",
    )
    max_failed_starts: int = Field(
        3, ge=1, description="Starts in a row that never became ready before a worker is given up."
    )
    initial_backoff_s: float = Field(
        0.25, gt=0, description="Seconds before the first restart; doubles with each death."
    )
    max_backoff_s: float = Field(30.0, gt=0, description="Most seconds before a restart.")
    stable_after_s: float = Field(
        60.0,
        ge=0,
        description="Seconds of being ready after which the backoff starts over; a shorter life "
        "takes back its share of the doublings.",
    )
    drain_timeout_s: float = Field(
        20.0, ge=0, description="Seconds that running requests may take at unload or shutdown."
    )


class ContextSettings(Section):
    """The llama.cpp context of each worker."""

    cells: int = Field(
        8192, ge=64, description="KV positions for all running requests of a model together."
    )
    max_tokens: int = Field(
        0,
        ge=0,
        description="Most tokens of one request, input and output; 0 means the smaller of `cells` "
        "and what the model was trained for.",
    )
    seats: int = Field(
        16,
        ge=1,
        le=MAX_SEQUENCE_IDS - SCRATCH_SEQUENCE_IDS,
        description="Requests that decode together.",
    )
    token_budget: int = Field(
        512, ge=1, description="Most tokens computed in one step (llama.cpp's n_batch)."
    )
    step_time_ms: int = Field(
        650,
        ge=0,
        description="Milliseconds that long inputs (of more than `token_budget` tokens) are "
        "planned to hold up at a time those who decode; they are cut into smaller parts, but of "
        "no fewer than 32 tokens (64 on a CPU, unless quantized memory is used). Shorter inputs "
        "aren't cut, but share a step only within it. 0: no bound.",
    )
    micro_batch: int = Field(
        0, ge=0, description="Tokens that one graph computes (n_ubatch); 0 means `token_budget`."
    )
    side_context: bool = Field(
        True,
        description="Whether new inputs of at most `token_budget` tokens are computed in a small "
        "context of their own, on a CPU with f16 memory: beside many cells in use that is faster. "
        "Takes memory for `token_budget` cells and their computing.",
    )
    threads: int = Field(0, ge=0, description="Threads that compute; 0 means one per usable core.")
    key_type: KvType = Field(KvType.F16, description="How keys are stored.")
    value_type: KvType = Field(KvType.F16, description="How values are stored.")
    gpu_layers: int | None = Field(
        None,
        ge=0,
        description="Layers to compute on a GPU; `none` means all, where there is a GPU.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.seats > self.token_budget:
            raise ValueError("token_budget must have room for one token of each of the seats")
        if self.micro_batch > self.token_budget:
            raise ValueError("micro_batch can't exceed token_budget")
        if self.max_tokens > self.cells:
            raise ValueError("max_tokens can't exceed cells")
        return self


class KvSettings(Section):
    """Pages: how computed positions are shared, moved and kept."""

    paged: bool = Field(
        True,
        description="Whether memory is shared and moved by pages; otherwise by whole sequences, "
        "as with models that can't page.",
    )
    page_size: int = Field(256, ge=16, le=8192, description="Tokens of a page.")
    coalesce: bool = Field(True, description="Whether adjacent partial pages become one.")
    host_budget_bytes: int | None = Field(
        None,
        ge=0,
        description="Bytes of host memory for the pages of each model; `none` means four times "
        "the size of its cells, 0 keeps none. Less where the memory budget is tight.",
    )
    disk_budget_bytes: int = Field(
        0,
        ge=0,
        description="Bytes on disk for the pages of each model; 0 keeps none. Pages hold prompts: "
        "whoever reads the folder can read them.",
    )
    disk_directory: Path | None = Field(
        None, description="Folder of pages on disk; `none` means `<home>/pages`."
    )
    disk_compression: PageCodec = Field(
        PageCodec.NONE, description="How pages on disk are compressed."
    )
    checkpoints: bool = Field(
        True,
        description="Whether full pages of running requests, and all pages of parked ones, are "
        "written to disk at once, if any are kept there; a restarted worker goes on from them.",
    )
    async_prefetch: bool = Field(
        True,
        description="Whether threads read pages from disk before they are needed; otherwise steps "
        "wait for the disk.",
    )
    prefetch_threads: int = Field(
        1, ge=1, le=64, description="Threads that read pages from disk; idle while none is wanted."
    )
    prefetch_lookahead: int = Field(
        4, ge=0, description="Waiting requests whose pages are fetched ahead; 0 fetches none."
    )
    start_watermark: float = Field(
        0.85,
        gt=0,
        le=1,
        description="Share of the cells in use at which pages begin to leave.",
    )
    stop_watermark: float = Field(
        0.70, ge=0, lt=1, description="Share of the cells in use at which pages stop to leave."
    )
    idle_pages: IdlePages = Field(
        IdlePages.AUTO,
        description="Where pages stay that nobody uses; `auto` means cells on a device with memory "
        "of its own, and host memory on a CPU, which slows down with each cell in use.",
    )
    resident_sequences: int = Field(
        16,
        ge=0,
        le=MAX_SEQUENCE_IDS - SCRATCH_SEQUENCE_IDS,
        description="Sequence ids that hold pages in cells while nobody uses them; 0 holds none.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.stop_watermark >= self.start_watermark:
            raise ValueError("start_watermark must be above stop_watermark")
        return self


class QueueSettings(Section):
    """Requests that wait for a seat, per worker."""

    size: int = Field(1000, ge=1, description="Most requests that wait.")
    timeout_s: float = Field(30.0, gt=0, description="Seconds that a request may wait.")
    ageing_s_per_level: float = Field(
        2.0,
        ge=0,
        description="Seconds of waiting that raise a priority by one, up to 100; 0: waiting raises "
        "none.",
    )
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {},
        description="Shares of clients of equal priority, also of a full queue, by "
        "`tenant/principal` or `tenant` (each of its principals); 1 where not named.",
    )
    refuse_late: bool = Field(
        True,
        description="Refuse a request at once whose deadline can't be met at the measured speed.",
    )
    reader_stall_s: float = Field(
        60.0, gt=0, description="Seconds that a client may leave its output unread."
    )


class ChatSettings(Section):
    """Limits on a model's chat template, which is code from the model's file."""

    memory_limit_bytes: int = Field(
        256 * 2**20, ge=64 * 2**20, description="Bytes of memory for the process that renders."
    )
    time_limit_s: float = Field(5.0, gt=0, description="Seconds for one chat.")
    output_limit_chars: int = Field(
        5 * 2**20, ge=1024, description="Most characters of a rendered chat."
    )
    queue_size: int = Field(256, ge=1, description="Most chats that wait to be rendered.")


class TelemetrySettings(Section):
    """Where the numbers of workers go."""

    address: str | None = Field(
        "127.0.0.1:50054",
        description="host:port of telemetry; `none` sends nothing.",
    )


class MetricsSettings(Section):
    """The structured metrics log of each worker: one JSON object a line."""

    log: bool = Field(
        False,
        description="Whether workers write their numbers to standard error, behind `[METRICS] `.",
    )
    file: Path | None = Field(
        None,
        description="File to which they are appended instead, whatever `log` says; `{worker}` in "
        "it becomes model and replica, else the workers share it. `none`: no file.",
    )
    interval_s: float = Field(
        10.0,
        ge=0,
        description="Seconds between two objects; each eviction of pages brings one too, and 0 "
        "leaves it at those.",
    )
    pretty: bool = Field(False, description="Whether an object takes many lines instead of one.")


class LogSettings(Section):
    """What is logged."""

    level: str = Field(
        "info", pattern="^(debug|info|warning|error)$", description="Least severe level shown."
    )


class EngineSettings(ServiceSettings):
    """All settings of the engine host and its workers."""

    service: ClassVar[str] = "engine"
    aliases: ClassVar[Mapping[str, str]] = {
        **LLAMA_CPP_NAMES,
        "CARAVAN_MODEL": "models.path",
    }

    server: ServerSettings = Field(ServerSettings(), description="Where the host listens.")
    models: ModelsSettings = Field(ModelsSettings(), description="Which models there are.")
    workers: WorkersSettings = Field(WorkersSettings(), description="Worker processes.")
    context: ContextSettings = Field(ContextSettings(), description="llama.cpp's context.")
    kv: KvSettings = Field(KvSettings(), description="Pages of computed positions.")
    queue: QueueSettings = Field(QueueSettings(), description="Waiting requests.")
    retention: RetentionSettings = Field(RetentionSettings(), description="Broken streams.")
    journal: JournalSettings = Field(JournalSettings(), description="Journals of requests.")
    handover: HandoverSettings = Field(HandoverSettings(), description="Drained workers.")
    chat: ChatSettings = Field(ChatSettings(), description="Chat templates.")
    telemetry: TelemetrySettings = Field(TelemetrySettings(), description="Numbers of workers.")
    metrics: MetricsSettings = Field(MetricsSettings(), description="Metrics log of workers.")
    log: LogSettings = Field(LogSettings(), description="Logging.")

    @model_validator(mode="after")
    def _enough_sequence_ids(self) -> Self:
        resident = self.kv.resident_sequences if self.kv.paged else 0
        free = MAX_SEQUENCE_IDS - SCRATCH_SEQUENCE_IDS
        if self.context.seats + resident > free:
            raise ValueError(
                f"context.seats and kv.resident_sequences can't exceed {free} together"
            )
        return self

    @property
    def model_directory(self) -> Path:
        """The folder of model files."""
        return self.models.directory or self.home / "models"
