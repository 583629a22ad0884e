"""What can be allowed, and which resources a grant covers."""

from enum import StrEnum

ANY = "*"


class Permission(StrEnum):
    """What can be asked for."""

    INFERENCE = "inference"
    METRICS = "metrics"
    HEALTH = "health"
    MODELS = "models"
    POLICY = "policy"


def covers(granted: str, asked: str) -> bool:
    """Whether a granted resource covers the asked one.

    `*` covers everything, `model/*` every model, anything else itself. A grant on models never
    covers `*`, the deployment as a whole.
    """
    if granted in (ANY, asked):
        return True
    return granted.endswith("/*") and asked.startswith(granted[:-1])
