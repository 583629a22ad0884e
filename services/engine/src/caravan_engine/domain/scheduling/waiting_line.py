"""Requests of one priority that wait: the client that was served least comes first."""

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

from caravan_engine.domain.request import ClientKey
from caravan_engine.domain.sequence import SequenceGroup

Place = tuple[float, int]
"""When a request came in, and a number that no other request of the queue has."""

_SLACK = 64


@dataclass(slots=True)
class _ClientLine:
    requests: list[tuple[Place, SequenceGroup]] = field(default_factory=list)  # in order of place
    stamp: int = -1  # of its valid entry among the turns


class WaitingLine:
    """Lowest counter first, then first come, first served. Owned by the decode thread.

    Each client has a line of its own, and a heap holds one entry per client: its counter and the
    place of its first request at the time of the entry. Both only ever rise between two looks
    (tokens are charged, first ones leave), so an entry is a lower bound: when it comes to the top
    and isn't true any more, it is put back with what is true now. To look thus costs a few
    comparisons for each client that was charged since the last look, and those are at most as many
    as there are seats, however many wait.

    The obvious ways lose there: a heap of requests would have to be built again whenever a
    counter changes, which is after each step; the minimum over all clients costs as much for each
    look as there are clients (200: 30 µs).

    Args:
        counter: What a client was served; never falls while it waits.
    """

    def __init__(self, counter: Callable[[ClientKey], float]) -> None:
        self._counter = counter
        self._lines: dict[ClientKey, _ClientLine] = {}
        self._turns: list[tuple[float, Place, int, ClientKey]] = []
        self._stamps = count()

    def __bool__(self) -> bool:
        return bool(self._lines)

    def push(self, group: SequenceGroup, place: Place) -> None:
        """Takes a request in, at its place among those of its client."""
        client = group.request.client
        line = self._lines.setdefault(client, _ClientLine())
        insort(line.requests, (place, group))
        if line.requests[0][0] == place:  # its turn may come sooner than the entry says
            line.stamp = next(self._stamps)
            heapq.heappush(self._turns, (self._counter(client), place, line.stamp, client))
        if len(self._turns) > 2 * len(self._lines) + _SLACK:
            self._drop_stale()

    def remove(self, group: SequenceGroup, place: Place) -> None:
        """Takes a request out that was pushed with `place`."""
        client = group.request.client
        line = self._lines[client]
        del line.requests[bisect_left(line.requests, place, key=_place)]
        if not line.requests:
            del self._lines[client]

    def first(self) -> SequenceGroup | None:
        """Returns whose turn it is."""
        while self._turns:
            counter, place, stamp, client = self._turns[0]
            line = self._lines.get(client)
            if line is None or line.stamp != stamp:
                heapq.heappop(self._turns)
                continue
            first_place, group = line.requests[0]
            current = self._counter(client)
            if (counter, place) == (current, first_place):
                return group
            heapq.heapreplace(self._turns, (current, first_place, stamp, client))
        return None

    def upcoming(self) -> Iterator[tuple[int, float, SequenceGroup]]:
        """Yields who waits, about in order: how many of its client come before, and its counter.

        Clients alternate, the one that was served least first: what each will be charged meanwhile
        nobody knows. Takes time per client.
        """
        lines = sorted(
            (self._counter(client), line.requests[0][0], client)
            for client, line in self._lines.items()
        )
        longest = max((len(line.requests) for line in self._lines.values()), default=0)
        for number in range(longest):
            for counter, _, client in lines:
                if number < len(requests := self._lines[client].requests):
                    yield number, counter, requests[number][1]

    def _drop_stale(self) -> None:
        self._turns = [turn for turn in self._turns if self._is_valid(turn[3], turn[2])]
        heapq.heapify(self._turns)

    def _is_valid(self, client: ClientKey, stamp: int) -> bool:
        line = self._lines.get(client)
        return line is not None and line.stamp == stamp


def _place(entry: tuple[Place, SequenceGroup]) -> Place:
    return entry[0]
