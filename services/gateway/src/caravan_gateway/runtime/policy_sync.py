"""Turns the news from policy into forgetting, and into the end of running calls."""

import asyncio
import logging
from collections.abc import Collection

from caravan_gateway.domain.authenticator import Authenticator
from caravan_gateway.domain.authorizer import Authorizer
from caravan_gateway.domain.errors import (
    DependencyUnavailableError,
    InvalidCredentialError,
    KeyExpiredError,
    KeyRevokedError,
)
from caravan_gateway.domain.policy_view import PolicyView
from caravan_gateway.domain.principal import Credential
from caravan_gateway.runtime.live_calls import LiveCalls

_log = logging.getLogger("caravan.gateway.policy")


class PolicySync:
    """Listens to the stream of policy changes. Owned by the event loop."""

    def __init__(
        self,
        view: PolicyView,
        authenticator: Authenticator,
        authorizer: Authorizer,
        live_calls: LiveCalls,
    ) -> None:
        self._view = view
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._live_calls = live_calls
        self._check: asyncio.Task[None] | None = None

    def connected(self, version: int, revoked_key_ids: Collection[str]) -> None:
        """The stream begins, perhaps after a gap: all answers are asked for again."""
        self._view.resynchronize(version)
        self._authenticator.forget_all()
        self._authorizer.forget_all()
        self._live_calls.end_keys(revoked_key_ids, KeyRevokedError)
        self._check_running_calls()

    def changed(self, version: int, revoked_key_ids: Collection[str]) -> None:
        """Something changed: decisions of other versions are void, revoked keys end at once."""
        self._view.advance(version)
        self._authenticator.drop_keys(revoked_key_ids)
        self._live_calls.end_keys(revoked_key_ids, KeyRevokedError)

    def lost(self) -> None:
        """The stream broke."""
        self._view.lose()

    async def close(self) -> None:
        """Ends the check that may be under way."""
        if self._check is not None:
            self._check.cancel()
            await asyncio.gather(self._check, return_exceptions=True)

    def _check_running_calls(self) -> None:
        """Asks again who holds the keys of running calls: one may have been revoked in the gap."""
        if self._check is not None:
            self._check.cancel()
        self._check = asyncio.create_task(self._authenticate_running_calls())

    async def _authenticate_running_calls(self) -> None:
        credentials = {
            call.credential: call.key_id for call in self._live_calls if call.credential is not None
        }
        for credential, key_id in credentials.items():
            if key_id is not None:
                await self._authenticate(credential, key_id)

    async def _authenticate(self, credential: Credential, key_id: str) -> None:
        try:
            await self._authenticator.authenticate(credential)
        except (InvalidCredentialError, KeyRevokedError):
            self._live_calls.end_keys((key_id,), KeyRevokedError)
        except KeyExpiredError:
            return  # a call that began in time may finish
        except DependencyUnavailableError:
            _log.warning("could not check a running call's key", extra={"key_id": key_id})
