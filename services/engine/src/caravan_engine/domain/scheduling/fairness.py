"""Token fairness between clients: who was served how much, and what a newcomer starts with.

Owns counters of served tokens, not requests and not their order (`waiting_line`, `request_queue`).
"""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from caravan_engine.domain.request import ClientKey

INPUT_TOKEN_COST = 1.0
OUTPUT_TOKEN_COST = 2.0
"""Output is computed token by token, so it costs more of a step than input. On a CPU with eight
sequences a step's share per generated token is about two and a half times an input token's."""

_DEFAULT_WEIGHT = 1.0
_FIRST_SWEEP = 64
_MAX_IDLE = 4096


class ClientWeights:
    """Shares of capacity: a client with weight 2 gets twice what one with weight 1 gets.

    Args:
        weights: More than 0 each, by `tenant/principal`, or by `tenant` for each of its principals.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = dict(weights or {})

    def of(self, client: ClientKey) -> float:
        """Returns a client's weight: its own, else its tenant's, else 1."""
        own = self._weights.get(f"{client.tenant}/{client.principal}")
        return self._weights.get(client.tenant, _DEFAULT_WEIGHT) if own is None else own


@dataclass(slots=True)
class _Account:
    weight: float
    counter: float = 0.0  # weighted tokens that it was served, virtually: see `arrived`
    num_waiting: int = 0  # requests that wait for their first seat
    num_open: int = 0  # requests that wait, run or are parked


class FairnessLedger:
    """Virtual token counters of the clients of one priority. Owned by the decode thread.

    A client is charged for each input token when its request is admitted and for each output token
    as it is generated; whoever has the lowest counter is next. What keeps it fair is the lift: a
    client that comes back after a pause starts no lower than those who wait, so that nobody saves
    up capacity by not using it.

    A client without open requests is forgotten, unless its counter is above what a newcomer gets:
    then it still owes, and would be quit of that by leaving for a moment. What a newcomer gets
    never falls, so forgetting the others changes nothing. More than 4,096 such debts at once are
    not kept; the smallest go first.

    The obvious way, counting served tokens over a window of time, lets a client that was idle for
    the window take everything for as long.

    Source: Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024), algorithm 2
    (VTC) and its weighted form. The deviation: one ledger per priority, since who is served there
    is no matter of fairness alone, and the lowest counter of a starved priority says nothing about
    another one.

    Args:
        weights: Shares of capacity.
    """

    def __init__(self, weights: ClientWeights) -> None:
        self._weights = weights
        self._accounts: dict[ClientKey, _Account] = {}
        self._waiting: dict[ClientKey, _Account] = {}
        self._left_last: ClientKey | None = None
        self._next_sweep = _FIRST_SWEEP

    def __len__(self) -> int:
        """Returns how many clients are remembered."""
        return len(self._accounts)

    def counter(self, client: ClientKey) -> float:
        """Returns what a client was served, in weighted tokens; only comparable to others'."""
        account = self._accounts.get(client)
        return self._floor() if account is None else account.counter

    def arrived(self, client: ClientKey) -> None:
        """A request of the client begins to wait; if it is the only one, the counter is lifted."""
        account = self._accounts.get(client)
        if account is None:
            account = self._accounts[client] = _Account(self._weights.of(client))
        if not account.num_waiting:
            account.counter = max(account.counter, self._floor())
            self._waiting[client] = account
        account.num_waiting += 1
        account.num_open += 1

    def admitted(self, client: ClientKey) -> None:
        """A request of the client no longer waits, for whatever reason."""
        account = self._accounts[client]
        account.num_waiting -= 1
        if not account.num_waiting:
            del self._waiting[client]
            self._left_last = client

    def charge_input(self, client: ClientKey, num_tokens: int) -> None:
        """Takes tokens of input that are about to be computed for the client."""
        self._charge(client, num_tokens * INPUT_TOKEN_COST)

    def charge_output(self, client: ClientKey, num_tokens: int) -> None:
        """Takes generated tokens, those of each choice."""
        self._charge(client, num_tokens * OUTPUT_TOKEN_COST)

    def left(self, client: ClientKey) -> None:
        """A request of the client is over; nothing is charged for it from now on."""
        self._accounts[client].num_open -= 1
        if len(self._accounts) >= self._next_sweep:
            self._sweep()
            self._next_sweep = max(_FIRST_SWEEP, 2 * len(self._accounts))

    def _charge(self, client: ClientKey, cost: float) -> None:
        account = self._accounts[client]
        account.counter += cost / account.weight

    def _floor(self) -> float:
        """Returns what a newcomer starts with: even with the least served of those who wait.

        Where nobody waits that is the client who last did. Takes time per waiting client, which is
        paid once for each client that begins to wait.
        """
        if self._waiting:
            return min(account.counter for account in self._waiting.values())
        return 0.0 if self._left_last is None else self._accounts[self._left_last].counter

    def _sweep(self) -> None:
        floor = self._floor()
        idle = {
            client: account.counter
            for client, account in self._accounts.items()
            if not account.num_open and client != self._left_last
        }
        kept = heapq.nlargest(_MAX_IDLE, idle, key=idle.__getitem__)
        owing = {client for client in kept if idle[client] > floor}
        for client in idle.keys() - owing:
            del self._accounts[client]
