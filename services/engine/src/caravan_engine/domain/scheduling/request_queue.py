"""Who waits for a seat, and who is next."""

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count, islice

from caravan_engine.domain.request import MAX_PRIORITY
from caravan_engine.domain.scheduling.fairness import ClientWeights, FairnessLedger
from caravan_engine.domain.scheduling.waiting_line import Place, WaitingLine
from caravan_engine.domain.sequence import SequenceGroup

_EXPIRY_SLACK = 64

DEFAULT_AGEING_S = 2.0
"""Seconds of waiting for one priority. With a queue timeout of 30 s a background request (1) thus
passes the default ones (10) that come 18 s after it, and no default one ever passes a premium one
(50), which would take 80 s."""


@dataclass(frozen=True, slots=True)
class _Ticket:
    place: Place
    is_parked: bool


class _PriorityClass:
    """Those who wait with one priority: parked ones, new ones, and all by how long they wait."""

    def __init__(self, priority: int, weights: ClientWeights) -> None:
        self.priority = priority
        self.ledger = FairnessLedger(weights)
        self.parked = WaitingLine(self.ledger.counter)
        self.new = WaitingLine(self.ledger.counter)
        # Group -> since when it waits. Moments come in order, so the first is the oldest; a plain
        # dict would search for its first item among all that were removed before it.
        self.since: OrderedDict[SequenceGroup, float] = OrderedDict()

    def waits_since(self) -> float | None:
        """Returns since when somebody waits."""
        return next(iter(self.since.values()), None)

    def first(self) -> SequenceGroup | None:
        """Returns whose turn it is: whoever was served least, with a parked request before others.

        If parked ones came first whoever they belong to, a client could take what others are due
        by having many of them.
        """
        parked, new = self.parked.first(), self.new.first()
        if parked is None or new is None:
            return parked or new
        counter = self.ledger.counter
        is_due = counter(new.request.client) < counter(parked.request.client)
        return new if is_due else parked

    def upcoming(self) -> Iterator[SequenceGroup]:
        """Yields who waits, about in order."""
        both = heapq.merge(self.parked.upcoming(), self.new.upcoming(), key=_turn)
        return (group for _, _, group in both)

    def line(self, ticket: _Ticket) -> WaitingLine:
        """Returns where the holder of a ticket stands."""
        return self.parked if ticket.is_parked else self.new


class RequestQueue:
    """Orders waiting requests. Owned by the decode thread.

    1. Effective priority: its own, and one more for each `ageing_s_per_level` that the oldest
       request *of this priority* waits, up to 100.
    2. Token fairness: the client that was served least (`FairnessLedger`).
    3. Parked requests before new ones.
    4. First come, first served.

    A priority ages as a whole. If each request aged by itself, those of whoever queues the most
    would be the oldest, and come before the only one of somebody else: fairness would be void.
    Within a priority nobody starves as it is, since a client that isn't served has the lowest
    counter soon. At equal effective priority two priorities take turns by who waits longest.

    To look costs time per priority in use, and per client that was charged since the last look
    (`WaitingLine`); to come and go, logarithmic time.

    Args:
        timeout_s: How long a request may wait for its first seat.
        ageing_s_per_level: Seconds of waiting that raise a priority by one; 0: nothing raises it.
        weights: Shares of capacity.
    """

    def __init__(
        self,
        timeout_s: float,
        *,
        ageing_s_per_level: float = DEFAULT_AGEING_S,
        weights: ClientWeights | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        self._ageing_s = ageing_s_per_level
        self._weights = weights or ClientWeights()
        self._numbers = count()
        self._classes: dict[int, _PriorityClass] = {}
        self._tickets: dict[SequenceGroup, _Ticket] = {}
        self.num_parked = 0  # of those that wait
        self._expiries: list[tuple[float, int]] = []  # moment, number of the ticket
        self._expiring: dict[int, SequenceGroup] = {}  # by number of the ticket

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, group: SequenceGroup) -> bool:
        return group in self._tickets

    def __iter__(self) -> Iterator[SequenceGroup]:
        return iter(tuple(self._tickets))

    # ── who waits ──

    def push(self, group: SequenceGroup) -> None:
        """Takes a new request in."""
        self._class(group).ledger.arrived(group.request.client)
        timeout = group.times.arrived + self._timeout_s
        deadline = group.request.deadline
        expiry = timeout if deadline is None else min(timeout, deadline)
        self._enter(group, group.times.arrived, expiry, is_parked=False)

    def requeue(self, group: SequenceGroup, now: float) -> None:
        """Takes a parked request back in.

        It waits for as long as its deadline allows, and ages from now: the time that it ran was no
        waiting. Among parked ones of its client it keeps its place.
        """
        self._enter(group, now, group.request.deadline, is_parked=True)

    def remove(self, group: SequenceGroup) -> None:
        """Takes a request out, wherever it stands."""
        ticket = self._tickets.pop(group)
        self.num_parked -= ticket.is_parked
        standing = self._class(group)
        standing.line(ticket).remove(group, ticket.place)
        del standing.since[group]
        self._expiring.pop(ticket.place[1], None)
        if not ticket.is_parked:
            standing.ledger.admitted(group.request.client)

    def peek(self, now: float) -> SequenceGroup | None:
        """Returns whose turn it is."""
        best = max(self._ranked(now), default=None)
        return None if best is None else self._classes[best[-1]].first()

    def upcoming(self, num: int, now: float) -> list[SequenceGroup]:
        """Returns who comes next, about in order: what comes meanwhile changes it."""
        ranked = sorted(self._ranked(now), reverse=True)
        groups = chain.from_iterable(self._classes[rank[-1]].upcoming() for rank in ranked)
        return list(islice(groups, num))

    def effective_priority(self, group: SequenceGroup, now: float) -> int:
        """Returns by what a waiting request is ordered; of others, their own priority.

        It says who is seated next. Whom to park is another matter: who runs doesn't age, so by this
        alone those who were seated because they had aged would be parked at once.
        """
        priority = group.request.priority
        since = self._class(group).waits_since() if group in self._tickets else None
        return priority if since is None else self._level(priority, since, now)

    # ── time ──

    def next_expiry(self) -> float | None:
        """Returns the next moment at which somebody has waited too long."""
        while self._expiries and self._expiries[0][1] not in self._expiring:
            heapq.heappop(self._expiries)
        return self._expiries[0][0] if self._expiries else None

    def pop_expired(self, now: float) -> Iterator[SequenceGroup]:
        """Takes those out whose deadline passed or who waited too long."""
        while (expiry := self.next_expiry()) is not None and expiry <= now:
            group = self._expiring[heapq.heappop(self._expiries)[1]]
            self.remove(group)
            yield group

    # ── what they are served ──

    def charge_input(self, group: SequenceGroup, num_tokens: int) -> None:
        """Takes the input tokens that an admitted request needs computed; once, however often."""
        self._class(group).ledger.charge_input(group.request.client, num_tokens)

    def charge_output(self, group: SequenceGroup, num_tokens: int) -> None:
        """Takes tokens that a request generated."""
        self._class(group).ledger.charge_output(group.request.client, num_tokens)

    def ended(self, group: SequenceGroup) -> None:
        """A request that was pushed once is over, and not in the queue any more."""
        self._class(group).ledger.left(group.request.client)

    def _enter(
        self, group: SequenceGroup, since: float, expiry: float | None, *, is_parked: bool
    ) -> None:
        number = next(self._numbers)
        ticket = self._tickets[group] = _Ticket((group.times.arrived, number), is_parked)
        self.num_parked += is_parked
        standing = self._class(group)
        standing.line(ticket).push(group, ticket.place)
        standing.since[group] = since
        if expiry is not None:
            self._expiring[number] = group
            heapq.heappush(self._expiries, (expiry, number))
        if len(self._expiries) > 2 * len(self._expiring) + _EXPIRY_SLACK:
            self._expiries = [each for each in self._expiries if each[1] in self._expiring]
            heapq.heapify(self._expiries)

    def _class(self, group: SequenceGroup) -> _PriorityClass:
        priority = group.request.priority
        if priority not in self._classes:
            self._classes[priority] = _PriorityClass(priority, self._weights)
        return self._classes[priority]

    def _ranked(self, now: float) -> Iterator[tuple[int, bool, float, int]]:
        """Yields the priorities that somebody waits with, each behind what it is ranked by."""
        for priority, each in self._classes.items():
            since = each.waits_since()
            if since is not None:
                level = self._level(priority, since, now)
                yield level, bool(each.parked), -since, priority

    def _level(self, priority: int, since: float, now: float) -> int:
        if not self._ageing_s:
            return priority
        return min(MAX_PRIORITY, priority + int(max(0.0, now - since) / self._ageing_s))


def _turn(entry: tuple[int, float, SequenceGroup]) -> tuple[int, float]:
    return entry[:2]
