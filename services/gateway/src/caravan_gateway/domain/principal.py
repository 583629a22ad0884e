"""Who calls, and with what."""

import hashlib
import re
from dataclasses import dataclass, field
from enum import StrEnum

from caravan_gateway.domain.errors import InvalidCredentialError

_BEARER = re.compile(r"bearer +([\x21-\x7e]{1,1024}) *", re.IGNORECASE)


class Permission(StrEnum):
    """What policy can be asked for."""

    INFERENCE = "inference"
    HEALTH = "health"
    METRICS = "metrics"
    MODELS = "models"
    POLICY = "policy"


@dataclass(frozen=True, slots=True)
class Credential:
    """What the client sent as its key; never shown by `repr`."""

    text: str = field(repr=False)
    digest: bytes = field(repr=False)

    @classmethod
    def parse(cls, authorization: str | None) -> "Credential":
        """Reads the value of the `authorization` metadata.

        Raises:
            InvalidCredentialError: there is none, or not of the form `Bearer <key>`.
        """
        match = _BEARER.fullmatch(authorization or "")
        if match is None:
            raise InvalidCredentialError
        text = match.group(1)
        return cls(text, hashlib.sha256(text.encode()).digest())


@dataclass(frozen=True, slots=True)
class Identity:
    """Who it is, as policy says. `expire_time_s` counts from 1970; None is never."""

    tenant: str
    principal: str
    key_id: str
    priority_cap: int
    expire_time_s: float | None
    policy_version: int
