"""What a host tells a worker at its start: one JSON line on the worker's standard input."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from caravan_engine.config import (
    ChatSettings,
    ContextSettings,
    KvSettings,
    MetricsSettings,
    QueueSettings,
)
from caravan_engine.handover_settings import HandoverSettings
from caravan_engine.journal_settings import JournalSettings
from caravan_engine.retention_settings import RetentionSettings


def account_directory(home: Path) -> Path:
    """The folder where each worker has a file of what its generations used."""
    return home / "engine" / "accounts"


class WorkerSettings(BaseModel):
    """A worker's identity, its model, and its part of the engine's settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    worker_id: str
    model: str
    model_path: Path
    model_digest: str
    replica_index: int = Field(ge=0)
    address: str  # host:port to listen on; port 0 takes a free one
    home: Path  # where the certificates are
    drain_timeout_s: float = Field(ge=0)
    log_level: str
    telemetry_address: str | None = None  # where spans go
    context: ContextSettings
    kv: KvSettings
    host_page_bytes: int = Field(ge=0)  # what the memory plan grants the host tier; 0: no tier
    queue: QueueSettings
    retention: RetentionSettings = RetentionSettings()
    journal: JournalSettings = JournalSettings()
    handover: HandoverSettings = HandoverSettings()
    chat: ChatSettings
    metrics: MetricsSettings = MetricsSettings()

    @property
    def page_directory(self) -> Path:
        """The folder of this worker's pages on disk; no other worker writes there."""
        return (self.kv.disk_directory or self.home / "pages") / str(self.replica_index)

    @property
    def journal_directory(self) -> Path:
        """The folder of this worker's journal; no other worker writes there."""
        return (self.journal.directory or self.home / "journal") / str(self.replica_index)

    @property
    def account_file(self) -> Path:
        """What this worker's generations used; see `storage.account_file`."""
        return account_directory(self.home) / f"{self.worker_id}.db"

    @property
    def metrics_file(self) -> Path | None:
        """Where this worker appends its numbers, if to a file."""
        if self.metrics.file is None:
            return None
        return Path(
            str(self.metrics.file).replace("{worker}", f"{self.model}-{self.replica_index}")
        )

    def to_line(self) -> bytes:
        """The line, newline included."""
        return self.model_dump_json().encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> "WorkerSettings":
        """Reads the line.

        Raises:
            ValueError: it holds no settings.
        """
        return cls.model_validate_json(line)
