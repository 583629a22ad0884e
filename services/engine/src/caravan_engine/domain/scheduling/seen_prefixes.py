"""Which beginnings of texts were computed lately, as far as any thread can know."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence

_PART = 64
_MAX_PARTS = 16_384


class SeenPrefixes:
    """Remembers texts by their first 64, 128, ... tokens. May be used from any thread.

    Whether they are still in memory is known to the decode thread alone, which may be in a step;
    this says what could be at best. The oldest of 16,384 prefixes (a million tokens of text) are
    forgotten. Prefixes of different tenants have nothing to do with each other.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: OrderedDict[int, None] = OrderedDict()

    def add(self, tenant: str, tokens: Sequence[int]) -> None:
        """Remembers a text that is or will be computed."""
        hashes = list(_hashes(tenant, tokens))
        with self._lock:
            for each in hashes:
                self._seen[each] = None
                self._seen.move_to_end(each)
            while len(self._seen) > _MAX_PARTS:
                self._seen.popitem(last=False)

    def num_seen(self, tenant: str, tokens: Sequence[int]) -> int:
        """Returns how many tokens of a text's beginning were seen."""
        num_parts = 0
        with self._lock:
            for each in _hashes(tenant, tokens):
                if each not in self._seen:
                    break
                num_parts += 1
        return num_parts * _PART


def _hashes(tenant: str, tokens: Sequence[int]) -> Iterator[int]:
    chained = hash(tenant)
    for end in range(_PART, len(tokens) + 1, _PART):
        chained = hash((chained, *tokens[end - _PART : end]))
        yield chained
