"""The telemetry service's settings tree. Read once at the start.

Every description names the unit and what 0 means.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from caravan_servicekit.addresses import Address
from caravan_servicekit.settings import Section, ServiceSettings
from caravan_telemetry.domain.collector_url import collector_address


def _checked_url(url: str) -> str:
    collector_address(url)
    return url


class ServerSettings(Section):
    """Where the service listens, and how it stops."""

    address: Address = Field(
        "127.0.0.1:50054",
        description="host:port of the gRPC listener (mutual TLS); port 0 takes a free one.",
    )
    ops_address: Address = Field(
        "127.0.0.1:9090",
        description="host:port of `/metrics`, `/health/live`, `/health/ready`; port 0 takes a "
        "free one.",
    )
    drain_timeout_s: float = Field(
        10.0, ge=0, description="Seconds that running calls may take at shutdown; 0 waits for none."
    )


class UsageSettings(Section):
    """Usage records: how many may wait, how long they are kept."""

    retention_days: int = Field(
        90,
        ge=0,
        le=36_500,
        description="Days for which a usage record is kept after it arrived; 0 keeps all for ever.",
    )
    removal_interval_s: float = Field(
        3600.0, gt=0, description="Seconds between removals of records that are over their age."
    )
    queue_limit: int = Field(
        16,
        ge=1,
        le=1_000,
        description="Batches that may wait to be stored; more are refused (UNAVAILABLE).",
    )


class WorkerSettings(Section):
    """How the numbers of workers are followed."""

    silence_limit_s: float = Field(
        5.0, gt=0, description="Seconds without a report after which a host's gauges are removed."
    )
    remembered_limit: int = Field(
        256,
        ge=1,
        le=10_000,
        description="Workers that are gone and are still known by id, so that they may come back "
        "without counting twice.",
    )
    model_limit: int = Field(
        200,
        ge=1,
        le=10_000,
        description="Distinct models in the metrics; further ones are summed as `other`.",
    )


class TraceSettings(Section):
    """Spans: how many are kept and for how long, and where else they go."""

    max_spans: int = Field(
        100_000,
        ge=0,
        le=10_000_000,
        description="Most spans that are kept, about 1 kB each; 0 keeps none.",
    )
    retention_h: int = Field(
        72, ge=0, le=87_600, description="Hours for which a span is kept; 0 sets no limit."
    )
    forward_url: Annotated[str, AfterValidator(_checked_url)] | None = Field(
        None,
        description="A collector that gets all spans too (OTLP over gRPC): `http://host:4317`, or "
        "`https://` for TLS; `none` sends nothing.",
    )
    forward_queue_batches: int = Field(
        256,
        ge=1,
        le=10_000,
        description="Batches that wait while that collector is away; then the oldest are lost.",
    )


class LogSettings(Section):
    """What is logged."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level shown."
    )


class TelemetrySettings(ServiceSettings):
    """All settings of the telemetry service."""

    service: ClassVar[str] = "telemetry"

    server: ServerSettings = Field(ServerSettings(), description="Where the service listens.")
    usage: UsageSettings = Field(UsageSettings(), description="Usage records.")
    workers: WorkerSettings = Field(WorkerSettings(), description="Numbers of workers.")
    traces: TraceSettings = Field(TraceSettings(), description="Spans of calls.")
    log: LogSettings = Field(LogSettings(), description="Logging.")
