"""From a credential to a principal, asking policy as rarely as it lets us."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from caravan_gateway.domain.errors import (
    GatewayError,
    InvalidCredentialError,
    KeyExpiredError,
    KeyRevokedError,
)
from caravan_gateway.domain.expiring_cache import ExpiringCache
from caravan_gateway.domain.policy_answers import PolicyAnswers
from caravan_gateway.domain.policy_view import PolicyView
from caravan_gateway.domain.ports import CredentialChecker
from caravan_gateway.domain.principal import Credential, Identity

Refusal = type[InvalidCredentialError] | type[KeyExpiredError] | type[KeyRevokedError]
_REFUSALS = (InvalidCredentialError, KeyExpiredError, KeyRevokedError)


@dataclass(frozen=True, slots=True)
class AuthenticationLimits:
    """How much is remembered, and for how long.

    Refusals only so that a client that repeats a wrong key does not reach policy each time.
    """

    max_entries: int
    ttl_s: float
    max_refusals: int
    refusal_ttl_s: float


class Authenticator:
    """Knows who holds a credential. Keeps hashes of credentials, never themselves.

    Owned by the event loop. `wall_clock` counts from 1970 and judges when keys expire; `clock` is
    monotonic.
    """

    def __init__(
        self,
        checker: CredentialChecker,
        view: PolicyView,
        limits: AuthenticationLimits,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        on_lookup: Callable[[bool], None] = lambda known: None,
    ) -> None:
        self._checker = checker
        self._limits = limits
        self._wall_clock = wall_clock
        self._refusals: ExpiringCache[bytes, Refusal] = ExpiringCache(limits.max_refusals, clock)
        self.answers: PolicyAnswers[bytes, Identity] = PolicyAnswers(
            view,
            max_entries=limits.max_entries,
            ttl_s=limits.ttl_s,
            clock=clock,
            on_lookup=on_lookup,
        )

    @property
    def num_refusals(self) -> int:
        """How many refusals are remembered."""
        return len(self._refusals)

    async def authenticate(self, credential: Credential) -> Identity:
        """Returns who holds `credential`, true at the moment of the return.

        Raises:
            InvalidCredentialError: unknown or wrong.
            KeyExpiredError, KeyRevokedError: right once.
            DependencyUnavailableError: not known here, and policy does not answer.
        """
        refusal = self._refusals.get(credential.digest)
        if refusal is not None:
            raise refusal
        try:
            ask = partial(self._checker.check_credential, credential)
            identity = await self.answers.get(credential.digest, ask)
        except _REFUSALS as error:
            self._remember_refusal(credential, error)
            raise type(error) from None
        if identity.expire_time_s is not None and self._wall_clock() >= identity.expire_time_s:
            self.answers.forget(credential.digest)
            raise KeyExpiredError
        return identity

    def drop_keys(self, key_ids: Collection[str]) -> None:
        """Forgets who holds these keys."""
        self._refusals.clear()
        if key_ids:
            self.answers.forget_where(lambda identity: identity.key_id in key_ids)

    def forget_all(self) -> None:
        """Forgets everybody."""
        self._refusals.clear()
        self.answers.forget_all()

    def _remember_refusal(self, credential: Credential, error: GatewayError) -> None:
        for refusal in _REFUSALS:
            if isinstance(error, refusal):
                self._refusals.put(credential.digest, refusal, self._limits.refusal_ttl_s)
