"""How this gateway and what it depends on are, at one moment."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dependency:
    """A service that the gateway calls; `detail` says what is wrong, or nothing."""

    service: str
    address: str
    reachable: bool
    detail: str


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """The whole; `start_time_s` counts from 1970."""

    version: str
    start_time_s: float
    serving: bool
    dependencies: tuple[Dependency, ...]
    active_call_count: int
    spooled_record_count: int
