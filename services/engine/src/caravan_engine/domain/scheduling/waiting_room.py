"""Who has a place in the queue, and who would give it up. Not their order (`request_queue`)."""

from bisect import bisect_left, insort
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import count

from caravan_engine.domain.request import ClientKey, QueuedRequest
from caravan_engine.domain.scheduling.fairness import ClientWeights
from caravan_engine.domain.sequence import SequenceGroup


@dataclass(slots=True)
class _ClientPlaces:
    """The places that one client has with one priority."""

    weight: float
    num: int = 0
    # Who may give way -> when it came, latest last. Unlike a plain dict it has its last item at
    # hand however many behind that one were removed.
    yielding: OrderedDict[SequenceGroup, int] = field(default_factory=OrderedDict)

    @property
    def share(self) -> float:
        """How much of the queue it has for its weight."""
        return self.num / self.weight

    @property
    def rank(self) -> tuple[float, int]:
        """By what its latest request gives way before those of others; no two have the same."""
        return self.share, next(reversed(self.yielding.values()))

    def last(self) -> SequenceGroup:
        """Returns who of it gives way."""
        return next(reversed(self.yielding))


class _PriorityPlaces:
    """The places of one priority, with the clients ranked by how much they have for their weight.

    The ranking is a sorted list, so whoever comes or goes costs two binary searches and two moves
    of pointers. A look through all clients, which would be obvious, comes with each refusal: with
    a thousand of them that is a tenth of a millisecond for saying no.
    """

    def __init__(self, weights: ClientWeights) -> None:
        self.num = 0
        self._weights = weights
        self._clients: dict[ClientKey, _ClientPlaces] = {}
        self._ranking: list[tuple[float, int, _ClientPlaces]] = []  # of those who may give way

    def add(self, group: SequenceGroup, number: int) -> None:
        """Gives a request a place; what was accepted already, elsewhere, won't give way."""
        request = group.request
        places = self._clients.get(request.client)
        if places is None:
            places = _ClientPlaces(self._weights.of(request.client))
            self._clients[request.client] = places
        self._unrank(places)
        places.num += 1
        if not request.is_begun:
            places.yielding[group] = number
        self._rank(places)
        self.num += 1

    def remove(self, group: SequenceGroup) -> None:
        """Takes a request's place."""
        client = group.request.client
        places = self._clients[client]
        self._unrank(places)
        places.num -= 1
        places.yielding.pop(group, None)
        self._rank(places)
        if not places.num:
            del self._clients[client]
        self.num -= 1

    def largest(self) -> _ClientPlaces | None:
        """Returns who has most for its weight, of those who may give way."""
        return self._ranking[-1][-1] if self._ranking else None

    def share_with_one_more(self, client: ClientKey) -> float:
        """Returns how much a client would have for its weight."""
        places = self._clients.get(client)
        return ((places.num if places else 0) + 1) / self._weights.of(client)

    def _rank(self, places: _ClientPlaces) -> None:
        if places.yielding:
            insort(self._ranking, (*places.rank, places))

    def _unrank(self, places: _ClientPlaces) -> None:
        if places.yielding:
            del self._ranking[bisect_left(self._ranking, places.rank, key=_rank_of)]


class WaitingRoom:
    """The places of those who wait for their first seats. Whoever owns it keeps threads apart.

    Args:
        weights: Shares of capacity.
    """

    def __init__(self, weights: ClientWeights) -> None:
        self._weights = weights
        self._priorities: dict[int, _PriorityPlaces] = {}
        self._numbers = count()
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def num_by_priority(self) -> dict[int, int]:
        """Counts places by priority, lowest first; those without any are left out."""
        return {priority: places.num for priority, places in sorted(self._priorities.items())}

    def add(self, group: SequenceGroup) -> None:
        """Gives a request a place."""
        priority = group.request.priority
        if priority not in self._priorities:
            self._priorities[priority] = _PriorityPlaces(self._weights)
        self._priorities[priority].add(group, next(self._numbers))
        self._num += 1

    def remove(self, group: SequenceGroup) -> None:
        """Takes a request's place."""
        priority = group.request.priority
        places = self._priorities[priority]
        places.remove(group)
        if not places.num:
            del self._priorities[priority]
        self._num -= 1

    def yields_to(self, newcomer: QueuedRequest) -> SequenceGroup | None:
        """Returns whose place a newcomer may justly take; None if nobody's.

        1. Of the lowest priority below its own, with which somebody may give way, the latest
           request of the client that has most there.
        2. Else the latest request of the client that has most at its own priority, if that client
           has more than its own would have with one more. So the other one could not take the
           place back.

        How much a client has is meant for its weight. Takes time per priority in use.
        """
        for priority, places in sorted(self._priorities.items()):
            if priority >= newcomer.priority:
                break
            if largest := places.largest():
                return largest.last()
        return self._yields_to_equal(newcomer)

    def _yields_to_equal(self, newcomer: QueuedRequest) -> SequenceGroup | None:
        places = self._priorities.get(newcomer.priority)
        largest = places.largest() if places else None
        if places is None or largest is None:
            return None
        is_just = largest.share > places.share_with_one_more(newcomer.client)
        return largest.last() if is_just else None


def _rank_of(entry: tuple[float, int, _ClientPlaces]) -> tuple[float, int]:
    return entry[:2]
