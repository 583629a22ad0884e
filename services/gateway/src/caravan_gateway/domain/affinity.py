"""Which worker has the beginning of an input in memory already, as far as workers said."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

SESSION_SHARE = 0.5
"""Of a turn's input, what a worker that has the conversation has of it at least."""


@dataclass(frozen=True, slots=True)
class InputMarks:
    """Hashes of an input's beginnings, the shortest first, and which share of it each one is.

    They are made of tenant, model and text, so equal ones of different tenants mean nothing.
    """

    hashes: tuple[int, ...] = ()
    shares: tuple[float, ...] = ()
    session: int | None = None  # the conversation that it is a turn of


class HeldPrefixes:
    """The marks that each worker still has. Owned by the event loop."""

    def __init__(self) -> None:
        self._held: dict[str, frozenset[int]] = {}

    def heard(self, worker_id: str, hashes: Iterable[int]) -> None:
        """Replaces what a worker said before."""
        self._held[worker_id] = frozenset(hashes)

    def lost(self, worker_id: str) -> None:
        """The worker says nothing any more."""
        self._held.pop(worker_id, None)

    def share(self, worker_id: str, marks: InputMarks) -> float:
        """The share of an input, from its beginning, that a worker has."""
        held: Collection[int] = self._held.get(worker_id, ())
        found = 0.0
        for mark, share in zip(marks.hashes, marks.shares, strict=True):
            if mark not in held:
                break
            found = share
        return max(found, SESSION_SHARE) if marks.session in held else found
