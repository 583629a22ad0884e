"""Which pages are on disk, and which go when their budget is spent. Pure bookkeeping, no files."""

from collections import Counter, OrderedDict
from collections.abc import Collection
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class StoredPage:
    """A page on disk. Two writes of the same key make two of these."""

    key: bytes
    parent: bytes
    num_bytes: int
    is_protected: bool
    num_readers: int = 0


class PageIndex:
    """Pages by last use, within a budget. Not safe for several threads.

    A page goes after those that continue it: without it nobody finds them. So the pages are a
    forest of which leaves fall, the longest unused first, protected ones last. The obvious choice,
    plain LRU, would take a conversation's first page before its last, as they are read in order.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._pages: OrderedDict[bytes, StoredPage] = OrderedDict()
        self._num_children: Counter[bytes] = Counter()
        self._num_bytes = 0
        self._num_protected_bytes = 0

    def __len__(self) -> int:
        return len(self._pages)

    @property
    def num_bytes(self) -> int:
        """What all pages take together."""
        return self._num_bytes

    def get(self, key: bytes) -> StoredPage | None:
        """The page with this key."""
        return self._pages.get(key)

    def add(self, page: StoredPage) -> None:
        """Takes a page in as the one used last; its key must be new."""
        self._pages[page.key] = page
        self._num_children[page.parent] += 1
        self._num_bytes += page.num_bytes
        self._num_protected_bytes += page.num_bytes * page.is_protected

    def use(self, page: StoredPage) -> None:
        """Notes that it was used just now."""
        self._pages.move_to_end(page.key)

    def protect(self, page: StoredPage, *, protected: bool) -> None:
        """Changes whether it goes last."""
        change = page.num_bytes * (protected - page.is_protected)
        self._num_protected_bytes += change
        page.is_protected = protected

    def remove(self, page: StoredPage) -> None:
        """Forgets a page; nothing happens when it is gone already."""
        if self._pages.get(page.key) is not page:
            return
        del self._pages[page.key]
        self._num_children[page.parent] -= 1
        if not self._num_children[page.parent]:
            del self._num_children[page.parent]
        self._num_bytes -= page.num_bytes
        self._num_protected_bytes -= page.num_bytes * page.is_protected

    def exceeds(self, more_bytes: int = 0) -> bool:
        """Whether the pages and so much more are over the budget."""
        return self._num_bytes + more_bytes > self.budget_bytes

    def could_hold(self, num_bytes: int, *, protected: bool) -> bool:
        """Whether a page of this size can find room; others may have to go for it."""
        kept_bytes = 0 if protected else self._num_protected_bytes
        return kept_bytes + num_bytes <= self.budget_bytes

    def victim(
        self, *, spares_protected: bool, spared: Collection[bytes] = ()
    ) -> StoredPage | None:
        """Returns the page to go first: not one of `spared`, nor one that is being read."""
        last_choice = None
        for page in self._pages.values():
            if page.num_readers or self._num_children[page.key] or page.key in spared:
                continue
            if not page.is_protected:
                return page
            last_choice = last_choice or page
        return None if spares_protected else last_choice
