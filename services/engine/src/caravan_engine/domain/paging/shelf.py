"""Sequence ids that keep pages in the cells while nobody uses them."""

from collections.abc import Iterator, Sequence

from caravan_engine.domain.paging.prefix_tree import PageNode


class Shelf:
    """Finds an id for each page, and remembers which were used last. Owned by the decode thread.

    There are only 256 ids, so one holds many pages: whatever texts they belong to, as long as
    their positions differ.

        id 17   | page 0 of a text | page 1 of another |                  |
        id 18   | page 0 of a third |                  | page 2 of the first |

    Args:
        seq_ids: The ids; none keep nothing.
    """

    def __init__(self, seq_ids: Sequence[int]) -> None:
        self._taken: dict[int, list[PageNode]] = {seq_id: [] for seq_id in seq_ids}
        self._nodes: dict[PageNode, None] = {}  # the least recently used first
        self.num_tokens = 0

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[PageNode]:
        """The least recently used first; pages may be removed meanwhile."""
        return iter(tuple(self._nodes))

    def place(self, node: PageNode) -> int | None:
        """Returns an id that has nothing at a page's positions."""
        for seq_id, pages in self._taken.items():
            if not any(_overlap(node, page) for page in pages):
                return seq_id
        return None

    def in_the_way(self, node: PageNode) -> PageNode | None:
        """Returns the least recently used page that takes a place that `node` could have."""
        return next((page for page in self._nodes if _overlap(node, page)), None)

    def put(self, node: PageNode, seq_id: int) -> None:
        """Notes that an id holds a page."""
        node.shelf = seq_id
        self._taken[seq_id].append(node)
        self.num_tokens += len(node.tokens)
        self._nodes[node] = None

    def touch(self, node: PageNode) -> None:
        """Makes a page the most recently used one."""
        if node in self._nodes:
            del self._nodes[node]
            self._nodes[node] = None

    def remove(self, node: PageNode) -> int | None:
        """Notes that a page is no longer held; returns by which id it was."""
        seq_id, node.shelf = node.shelf, None
        if seq_id is not None:
            self._taken[seq_id].remove(node)
            self.num_tokens -= len(node.tokens)
            del self._nodes[node]
        return seq_id


def _overlap(left: PageNode, right: PageNode) -> bool:
    return left.info.start < right.info.end and right.info.start < left.info.end
