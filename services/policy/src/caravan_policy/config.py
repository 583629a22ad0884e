"""The policy service's settings tree. Read once at the start.

Every description names the unit and what 0 means.
"""

from typing import ClassVar, Literal

from pydantic import Field, SecretStr

from caravan_servicekit.addresses import Address
from caravan_servicekit.settings import Section, ServiceSettings


class ServerSettings(Section):
    """Where the service listens, and how it stops."""

    address: Address = Field(
        "127.0.0.1:50053", description="host:port of the gRPC listener (mutual TLS)."
    )
    ops_address: Address = Field(
        "127.0.0.1:9093",
        description="host:port of `/metrics`, `/health/live`, `/health/ready`; port 0 takes any.",
    )
    drain_timeout_s: float = Field(
        10.0, ge=0, description="Seconds that running calls may take at shutdown; 0 waits for none."
    )


class DatabaseSettings(Section):
    """Where principals and keys are kept."""

    url: SecretStr | None = Field(
        None,
        description="SQLAlchemy URL of the database; none is SQLite in "
        "`<home>/policy/policy.db`. Other databases need their driver installed.",
    )
    connection_limit: int = Field(
        4, ge=1, le=64, description="Connections to the database, and threads that use them."
    )


class AdministrationSettings(Section):
    """Changing who may call."""

    idempotency_retention_h: float = Field(
        24.0, gt=0, le=8_760, description="Hours for which an idempotency key is remembered."
    )


class WatchSettings(Section):
    """Gateways that watch for changes."""

    watcher_limit: int = Field(
        64, ge=1, le=10_000, description="Watchers at once; more are refused (UNAVAILABLE)."
    )
    buffer_limit: int = Field(
        256,
        ge=1,
        le=100_000,
        description="Unread events of one watcher; at more it is ended (ABORTED).",
    )


class TelemetrySettings(Section):
    """Where the spans of traced calls go."""

    address: Address | None = Field(
        "127.0.0.1:50054", description="host:port of telemetry; `none` sends nothing."
    )


class LogSettings(Section):
    """What is logged."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level shown."
    )


class PolicySettings(ServiceSettings):
    """All settings of the policy service."""

    service: ClassVar[str] = "policy"

    server: ServerSettings = Field(ServerSettings(), description="Where the service listens.")
    database: DatabaseSettings = Field(
        DatabaseSettings(), description="Where principals and keys are kept."
    )
    administration: AdministrationSettings = Field(
        AdministrationSettings(), description="Changing who may call."
    )
    watch: WatchSettings = Field(WatchSettings(), description="Gateways that watch for changes.")
    telemetry: TelemetrySettings = Field(
        TelemetrySettings(), description="Where the spans of traced calls go."
    )
    log: LogSettings = Field(LogSettings(), description="Logging.")
