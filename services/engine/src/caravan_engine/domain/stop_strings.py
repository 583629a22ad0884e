"""Finds stop strings in text that arrives in pieces."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Node:
    """A beginning that one or more stop strings share."""

    depth: int
    follow: dict[str, "_Node"] = field(default_factory=dict)
    fallback: "_Node | None" = None
    stop: str | None = None  # the longest stop string that ends here


@dataclass(frozen=True, slots=True)
class StopMatch:
    """A stop string, and where in the fed text it begins (negative: in an earlier piece)."""

    stop: str
    start: int


class StopMatcher:
    """Reads text once, character by character, and remembers how much may be a beginning.

    The obvious way searches every stop string in the held text and compares every beginning with
    its end, for each token: a quarter of a millisecond with the longest strings allowed. The
    automaton costs one dictionary look-up per character, and its depth is exactly what has to be
    held back. The first stop string to be complete wins, and of several that end together the
    longest, so the result doesn't depend on how the text was cut into pieces.

    Source: Aho and Corasick, Efficient String Matching (1975), with the longest output per state.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._root = _Node(depth=0)
        for stop in stops:
            self._add(stop)
        self._link()
        self._node = self._root

    @property
    def num_undecided(self) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        return self._node.depth

    def feed(self, text: str) -> StopMatch | None:
        """Reads `text` up to the end of the first stop string in it."""
        node = self._node
        for index, character in enumerate(text):
            node = self._next(node, character)
            if node.stop is not None:
                return StopMatch(node.stop, index + 1 - len(node.stop))
        self._node = node
        return None

    def _next(self, node: _Node, character: str) -> _Node:
        while (target := node.follow.get(character)) is None:
            if node.fallback is None:
                return node
            node = node.fallback
        return target

    def _add(self, stop: str) -> None:
        node = self._root
        for character in stop:
            node = node.follow.setdefault(character, _Node(depth=node.depth + 1))
        node.stop = stop

    def _link(self) -> None:
        waiting = deque((child, self._root) for child in self._root.follow.values())
        while waiting:  # shallow nodes first, so a fallback is complete before it is used
            node, fallback = waiting.popleft()
            node.fallback = fallback
            node.stop = node.stop or fallback.stop
            for character, child in node.follow.items():
                waiting.append((child, self._next(fallback, character)))
