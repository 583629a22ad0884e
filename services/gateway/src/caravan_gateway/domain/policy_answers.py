"""Answers of policy, remembered as long as policy lets them stand."""

from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from caravan_gateway.domain.errors import DependencyUnavailableError
from caravan_gateway.domain.expiring_cache import ExpiringCache
from caravan_gateway.domain.policy_view import PolicyView
from caravan_gateway.domain.single_flight import SingleFlight

# Each further round means that policy changed while it was asked.
_MAX_ROUNDS = 4


class Versioned(Protocol):
    """An answer that says which policy version it belongs to."""

    @property
    def policy_version(self) -> int:
        """The version that gave the answer."""


K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Versioned)


@dataclass(frozen=True, slots=True)
class _Entry(Generic[V]):
    value: V
    epoch: int


class PolicyAnswers(Generic[K, V]):
    """Asks policy once per question and version. Owned by the event loop."""

    def __init__(
        self,
        view: PolicyView,
        *,
        max_entries: int,
        ttl_s: float,
        clock: Callable[[], float],
        on_lookup: Callable[[bool], None],
    ) -> None:
        """Begins empty.

        Args:
            view: decides which answers hold.
            max_entries: most answers that are remembered.
            ttl_s: seconds for which one is believed at most.
            clock: monotonic, in seconds.
            on_lookup: told of each question whether the answer was known.
        """
        self._view = view
        self._on_lookup = on_lookup
        self._ttl_s = ttl_s
        self._entries: ExpiringCache[K, _Entry[V]] = ExpiringCache(max_entries, clock)
        self._flights: SingleFlight[K, _Entry[V]] = SingleFlight()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_running(self) -> int:
        """How many questions are under way."""
        return len(self._flights)

    async def get(self, key: K, ask: Callable[[], Awaitable[V]]) -> V:
        """Returns an answer that holds at this very moment; `ask` gets a fresh one.

        Nothing else runs between the check that it holds and the return to the caller.

        Raises:
            DependencyUnavailableError: policy changes faster than it answers.
        """
        known = self._entries.get(key)
        if known is not None and self._holds(known):
            self._on_lookup(True)
            return known.value
        self._on_lookup(False)
        for _ in range(_MAX_ROUNDS):
            fresh = await self._flights.run(key, lambda: self._ask(key, ask))
            if self._holds(fresh):
                return fresh.value
        raise DependencyUnavailableError("policy")

    def forget(self, key: K) -> None:
        """Forgets one answer."""
        self._entries.discard(key)

    def forget_where(self, matches: Callable[[V], bool]) -> None:
        """Forgets the answers that `matches`."""
        self._entries.discard_where(lambda entry: matches(entry.value))

    def forget_all(self) -> None:
        """Forgets every answer."""
        self._entries.clear()

    async def close(self) -> None:
        """Ends the questions under way."""
        await self._flights.close()

    async def _ask(self, key: K, ask: Callable[[], Awaitable[V]]) -> _Entry[V]:
        epoch = self._view.epoch
        entry = _Entry(await ask(), epoch)
        if self._holds(entry):
            self._entries.put(key, entry, self._ttl_s)
        return entry

    def _holds(self, entry: _Entry[V]) -> bool:
        return self._view.accepts(entry.epoch, entry.value.policy_version)
