"""A public call that another service answers."""

from dataclasses import dataclass

from caravan_gateway.domain.principal import Identity


@dataclass(frozen=True, slots=True)
class ForwardedCall:
    """What goes along with the request; `model` is the name in it, if it has one."""

    method: str
    identity: Identity
    request_id: str
    timeout_s: float | None
    model: str | None = None
