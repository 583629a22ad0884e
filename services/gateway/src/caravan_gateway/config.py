"""The gateway's settings tree. Read once at the start.

Every description names the unit and what 0 or `none` means.
"""

import socket
from pathlib import Path
from typing import ClassVar, Self

from pydantic import Field, model_validator

from caravan_gateway.domain.routing_strategies import DEFAULT_AFFINITY_CALLS, RoutingName
from caravan_servicekit.addresses import Address
from caravan_servicekit.settings import Section, ServiceSettings


class ServerSettings(Section):
    """The public listener, and how the service stops."""

    address: Address = Field(
        "127.0.0.1:50051",
        description="host:port of the public gRPC listener; plaintext unless TLS is set below.",
    )
    ops_address: Address = Field(
        "127.0.0.1:9091",
        description="host:port of `/metrics`, `/health/live`, `/health/ready`; port 0 takes a "
        "free one.",
    )
    tls_certificate_path: Path | None = Field(
        None, description="Certificate chain (PEM) of the public listener; `none` is plaintext."
    )
    tls_key_path: Path | None = Field(
        None, description="Private key (PEM) of the public listener; `none` is plaintext."
    )
    allow_plaintext: bool = Field(
        False, description="Whether an address beyond loopback may be served without TLS."
    )
    drain_timeout_s: float = Field(
        30.0, ge=0, description="Seconds that running calls may take at shutdown; 0 waits for none."
    )
    max_calls: int = Field(
        4096, ge=1, description="Most calls in progress; more are refused (UNAVAILABLE)."
    )
    max_response_bytes: int = Field(
        4 * 2**20,
        ge=1024,
        description="Most bytes of an answer that is not streamed; clients take 4 MiB by default.",
    )
    reader_stall_s: float = Field(
        90.0,
        ge=0,
        description="Seconds that a client may leave its stream unread before it is cut off; "
        "0 never cuts off.",
    )

    @model_validator(mode="after")
    def _whole_pair(self) -> Self:
        if (self.tls_certificate_path is None) != (self.tls_key_path is None):
            raise ValueError("tls_certificate_path and tls_key_path belong together")
        return self


class PolicySettings(Section):
    """Policy, and how long its answers are believed."""

    address: Address = Field("127.0.0.1:50053", description="host:port of policy.")
    timeout_s: float = Field(3.0, gt=0, description="Seconds that policy may take for an answer.")
    cache_ttl_s: float = Field(
        60.0,
        ge=0,
        description="Seconds for which an answer is believed, and so for which known callers may "
        "go on while policy is away; 0 asks for every call.",
    )
    cache_entries: int = Field(
        10_000, ge=0, description="Most credentials, and most decisions, that are remembered."
    )
    refusal_ttl_s: float = Field(
        1.0, ge=0, le=5, description="Seconds for which a wrong credential is remembered."
    )
    refusal_entries: int = Field(
        1_000, ge=0, description="Most wrong credentials that are remembered."
    )


class EngineSettings(Section):
    """The engine hosts."""

    addresses: tuple[Address, ...] = Field(
        ("127.0.0.1:50052",), min_length=1, description="host:port of each engine host."
    )

    routing: RoutingName = Field(
        RoutingName.LEAST_LOADED,
        description="How a call's worker is chosen among a model's replicas.",
    )
    affinity_calls: float = Field(
        DEFAULT_AFFINITY_CALLS,
        ge=0,
        description="With `adaptive`: how many calls more than the least busy replica one may have "
        "and be preferred because it has the whole input in memory; for a part of it, that part of "
        "them. 0 prefers it only among equals.",
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.addresses)) < len(self.addresses):
            raise ValueError("an address is given twice")
        return self


class FailoverSettings(Section):
    """Calls whose worker dies, hangs or leaves, and the workers that they leave."""

    timeout_s: float = Field(
        30.0,
        ge=0,
        description="Seconds for which such a call looks for another worker, or the same one "
        "restarted, within its deadline; 0 ends it with its worker.",
    )
    arrival_timeout_s: float = Field(
        10.0,
        ge=0,
        description="Seconds for which a new call waits for a worker that is being started or "
        "restarted, within its deadline; 0 refuses it at once.",
    )
    keepalive_s: float = Field(
        5.0,
        ge=1,
        description="Seconds of silence after which another service is asked for a sign of life.",
    )
    keepalive_timeout_s: float = Field(
        5.0,
        gt=0,
        description="Seconds that the sign may take; then the connection is lost, and its calls go "
        "on elsewhere.",
    )
    poison_deaths: int = Field(
        2,
        ge=2,
        description="Deaths of workers that computed a request, within `poison_window_s`, after "
        "which it is not tried again.",
    )
    poison_window_s: float = Field(
        60.0, ge=0, description="Seconds within which deaths are counted; 0 tries again for ever."
    )
    breaker_s: float = Field(
        0.5,
        ge=0,
        description="Seconds for which a worker whose stream broke gets no calls; doubles with "
        "each break in a row, up to 30. 0 leaves none alone.",
    )


class TelemetrySettings(Section):
    """Telemetry, and the usage records on their way to it."""

    address: Address = Field("127.0.0.1:50054", description="host:port of telemetry.")
    timeout_s: float = Field(10.0, gt=0, description="Seconds that telemetry may take for a batch.")
    spool_max_bytes: int = Field(
        256 * 2**20,
        ge=2**16,
        description="Most bytes of records on disk while telemetry is away; then records are lost.",
    )
    unwritten_records: int = Field(
        10_000,
        ge=1,
        description="Most records in memory while the disk takes none; then records are lost.",
    )
    record_wait_s: float = Field(
        1.0,
        ge=0,
        le=60,
        description="Most seconds for which the end of a call waits until its record is on disk; 0 "
        "does not wait.",
    )


class TracingSettings(Section):
    """Traces of calls, which go to telemetry."""

    enabled: bool = Field(True, description="Whether calls are traced at all.")
    sample_ratio: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Share of calls that are traced, beside those whose client records its trace; "
        "0 traces only these.",
    )


class LogSettings(Section):
    """What is logged."""

    level: str = Field(
        "info", pattern="^(debug|info|warning|error)$", description="Least severe level shown."
    )


class GatewaySettings(ServiceSettings):
    """All settings of the gateway."""

    service: ClassVar[str] = "gateway"

    name: str = Field(
        default_factory=socket.gethostname,
        min_length=1,
        max_length=200,
        description="Names this gateway in usage records; the host's name by default.",
    )
    server: ServerSettings = Field(ServerSettings(), description="The public listener.")
    policy: PolicySettings = Field(PolicySettings(), description="Policy.")
    engine: EngineSettings = Field(EngineSettings(), description="Engine hosts.")
    failover: FailoverSettings = Field(FailoverSettings(), description="Lost workers.")
    telemetry: TelemetrySettings = Field(TelemetrySettings(), description="Usage records.")
    tracing: TracingSettings = Field(TracingSettings(), description="Traces of calls.")
    log: LogSettings = Field(LogSettings(), description="Logging.")
