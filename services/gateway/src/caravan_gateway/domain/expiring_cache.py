"""A bounded memory of values that go out of date."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ExpiringCache(Generic[K, V]):
    """Keeps at most `max_entries`, the least recently used goes first; 0 keeps nothing.

    Owned by the event loop. Out-of-date entries are dropped when they are met or pushed out.
    """

    def __init__(self, max_entries: int, clock: Callable[[], float]) -> None:
        self._max_entries = max_entries
        self._clock = clock
        self._entries: OrderedDict[K, tuple[V, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """Returns the value under `key` while it holds."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        value, until = entry
        if self._clock() >= until:
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V, ttl_s: float) -> None:
        """Remembers `value` for `ttl_s` seconds."""
        if ttl_s <= 0:
            return
        self._entries[key] = (value, self._clock() + ttl_s)
        self._entries.move_to_end(key)
        while len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)

    def discard(self, key: K) -> None:
        """Forgets `key`, if it is known."""
        self._entries.pop(key, None)

    def discard_where(self, matches: Callable[[V], bool]) -> None:
        """Forgets every value that `matches`; looks at all of them."""
        for key in [key for key, (value, _) in self._entries.items() if matches(value)]:
            del self._entries[key]

    def clear(self) -> None:
        """Forgets everything."""
        self._entries.clear()
