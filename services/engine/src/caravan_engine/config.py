"""The engine's settings tree. Read once at the start; workers get their part of it as JSON.

Every description names the unit and what 0 or `none` means.
"""

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from caravan_servicekit.addresses import Address
from caravan_servicekit.settings import Section, ServiceSettings


class KvType(StrEnum):
    """How the KV cache stores numbers."""

    F16 = "f16"
    Q8_0 = "q8_0"
    Q4_0 = "q4_0"


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
    max_failed_starts: int = Field(
        3, ge=1, description="Starts in a row that never became ready before a worker is given up."
    )
    initial_backoff_s: float = Field(
        0.25, gt=0, description="Seconds before the first restart; doubles with each death."
    )
    max_backoff_s: float = Field(30.0, gt=0, description="Most seconds before a restart.")
    stable_after_s: float = Field(
        60.0, ge=0, description="Seconds of being ready after which the backoff starts over."
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
    seats: int = Field(16, ge=1, le=256, description="Requests that decode together.")
    token_budget: int = Field(
        512, ge=1, description="Most tokens computed in one step (llama.cpp's n_batch)."
    )
    micro_batch: int = Field(
        0, ge=0, description="Tokens that one graph computes (n_ubatch); 0 means `token_budget`."
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


class QueueSettings(Section):
    """Requests that wait for a seat, per worker."""

    size: int = Field(1000, ge=1, description="Most requests that wait.")
    timeout_s: float = Field(30.0, gt=0, description="Seconds that a request may wait.")
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


class LogSettings(Section):
    """What is logged."""

    level: str = Field(
        "info", pattern="^(debug|info|warning|error)$", description="Least severe level shown."
    )


class EngineSettings(ServiceSettings):
    """All settings of the engine host and its workers."""

    service: ClassVar[str] = "engine"
    aliases: ClassVar[Mapping[str, str]] = {
        "CARAVAN_MODEL": "models.path",
        "--model": "models.path",
    }

    server: ServerSettings = Field(ServerSettings(), description="Where the host listens.")
    models: ModelsSettings = Field(ModelsSettings(), description="Which models there are.")
    workers: WorkersSettings = Field(WorkersSettings(), description="Worker processes.")
    context: ContextSettings = Field(ContextSettings(), description="llama.cpp's context.")
    queue: QueueSettings = Field(QueueSettings(), description="Waiting requests.")
    chat: ChatSettings = Field(ChatSettings(), description="Chat templates.")
    telemetry: TelemetrySettings = Field(TelemetrySettings(), description="Numbers of workers.")
    log: LogSettings = Field(LogSettings(), description="Logging.")

    @property
    def model_directory(self) -> Path:
        """The folder of model files."""
        return self.models.directory or self.home / "models"
