"""A question to policy and its answer."""

from dataclasses import dataclass

from caravan_gateway.domain.principal import Permission

DEPLOYMENT = "*"
# Longer names are refused by validation later; policy takes resources up to 512 characters.
_MAX_NAME_CHARS = 256


@dataclass(frozen=True, slots=True)
class Question:
    """May this principal do this, to that?"""

    tenant: str
    principal: str
    permission: Permission
    resource: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Yes or no, by that version of the policy."""

    allowed: bool
    policy_version: int


def model_resource(name: str) -> str:
    """What policy calls the model; a call that names none concerns the deployment."""
    return f"model/{name[:_MAX_NAME_CHARS]}" if name else DEPLOYMENT
