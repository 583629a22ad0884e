"""API keys: how they look, how they are made, and when they work.

A credential is `cvn_<id>_<secret>`. The id is public; the secret is shown once and kept as a hash.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from caravan_policy.domain.principals import Principal, PrincipalRef

_PREFIX = "cvn"
_ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
_ID_CHARS = 12  # 60 bits; unique, not secret
_SECRET_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # noqa: S105
_SECRET_CHARS = 43  # log2(62 ** 43) is 256.03 bits
_ID = re.compile(f"[a-z2-7]{{{_ID_CHARS}}}")
_CREDENTIAL = re.compile(f"{_PREFIX}_({_ID.pattern})_([0-9A-Za-z]{{{_SECRET_CHARS}}})")


class KeyState(StrEnum):
    """Whether a key works."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A credential of a principal, without the secret."""

    id: str
    principal: PrincipalRef
    description: str
    create_time: datetime
    expire_time: datetime | None = None
    revoke_time: datetime | None = None

    def state(self, now: datetime) -> KeyState:
        """Whether it works at `now`; revoked outweighs expired."""
        if self.revoke_time is not None:
            return KeyState.REVOKED
        if self.expire_time is not None and self.expire_time <= now:
            return KeyState.EXPIRED
        return KeyState.ACTIVE


@dataclass(frozen=True, slots=True)
class Credential:
    """A well-formed credential. Its text and repr hide the secret."""

    key_id: str
    text: str = field(repr=False)

    @property
    def sha256(self) -> str:
        """What is stored of it, in hex.

        Not a password hash on purpose: 256 random bits cannot be guessed, however fast the hash.
        """
        return hashlib.sha256(self.text.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{_PREFIX}_{self.key_id}_***"

    @classmethod
    def parse(cls, text: str) -> "Credential | None":
        """Reads what a client sent; None when it is not of the form."""
        match = _CREDENTIAL.fullmatch(text)
        return None if match is None else cls(match[1], text)

    @classmethod
    def mint(cls) -> "Credential":
        """Draws a new one from the system's source of secrets."""
        key_id = _draw(_ID_ALPHABET, _ID_CHARS)
        return cls(key_id, f"{_PREFIX}_{key_id}_{_draw(_SECRET_ALPHABET, _SECRET_CHARS)}")


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """What the store knows of a key: enough to check a secret and to say who it is."""

    key: ApiKey
    sha256: str = field(repr=False)
    principal: Principal
    policy_version: int


def is_key_id(text: str) -> bool:
    """Whether `text` has the form of a key's identifier."""
    return _ID.fullmatch(text) is not None


def _draw(alphabet: str, num_chars: int) -> str:
    return "".join(secrets.choice(alphabet) for _ in range(num_chars))
