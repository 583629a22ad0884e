"""From a credential to a principal."""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import assert_never

from caravan_policy.domain.api_keys import Credential, KeyState, StoredCredential
from caravan_policy.domain.errors import InvalidCredentialError, KeyExpiredError, KeyRevokedError
from caravan_policy.domain.ports import Clock, CredentialReader
from caravan_policy.domain.principals import Principal

_NO_KEY_SHA256 = "0" * 64  # stands in where there is no key, so that the comparison happens anyway


class AuthenticationOutcome(StrEnum):
    """How an authentication ended."""

    ACCEPTED = "accepted"
    INVALID = "invalid"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Authentication:
    """Who it is, and until when that may be believed."""

    principal: Principal
    key_id: str
    expire_time: datetime | None
    policy_version: int


class Authenticator:
    """Checks credentials against the store. Blocks: call it off the event loop. Thread-safe."""

    def __init__(
        self,
        reader: CredentialReader,
        clock: Clock,
        record: Callable[[AuthenticationOutcome], None],
    ) -> None:
        self._reader = reader
        self._clock = clock
        self._record = record

    def authenticate(self, text: str) -> Authentication:
        """Says who holds the credential `text`.

        Raises:
            InvalidCredentialError: it is missing, malformed, unknown or wrong; all look the same.
            KeyRevokedError: the secret is right, but the key was revoked.
            KeyExpiredError: the secret is right, but its time is over.
            StoreUnavailableError: the store does not answer.
        """
        stored = self._verified(text)
        if stored is None:
            self._record(AuthenticationOutcome.INVALID)
            raise InvalidCredentialError
        state = stored.key.state(self._clock())
        if state is KeyState.ACTIVE:
            self._record(AuthenticationOutcome.ACCEPTED)
            return Authentication(
                stored.principal, stored.key.id, stored.key.expire_time, stored.policy_version
            )
        if state is KeyState.EXPIRED:
            self._record(AuthenticationOutcome.EXPIRED)
            raise KeyExpiredError(stored.key.id)
        if state is KeyState.REVOKED:
            self._record(AuthenticationOutcome.REVOKED)
            raise KeyRevokedError(stored.key.id)
        assert_never(state)

    def _verified(self, text: str) -> StoredCredential | None:
        """The stored key if the secret is right. An unknown id takes the same path as a known."""
        presented = Credential.parse(text)
        if presented is None:
            return None
        stored = self._reader.find_credential(presented.key_id)
        expected = _NO_KEY_SHA256 if stored is None else stored.sha256
        return stored if hmac.compare_digest(expected, presented.sha256) else None
