"""Finds which beginning of a text is stored: a radix tree whose edges are pages."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from caravan_engine.domain.paging.page_image import PageImage, PageInfo, page_key

Tokens = tuple[int, ...]
_FIRST_STRETCH = 16


@dataclass(slots=True, eq=False)
class PageNode:
    """A page in its text, and where its memory lies. Owned by the decode thread.

    `children` go on where the page ends; several may begin with the same tokens. They are sorted,
    so that the one with the longest common beginning stands beside the place where a text would
    be put: two comparisons find it among any number. The obvious dictionary by page hash finds
    whole pages only, and a text that ends or turns away within a page would be computed anew.
    """

    info: PageInfo
    parent: "PageNode | None"  # None: the root of a tenant
    image: PageImage | None = None  # in host memory
    shelf: int | None = None  # the sequence id that keeps it in the cells
    is_on_disk: bool = False
    is_being_read: bool = False
    is_being_written: bool = False
    is_being_exported: bool = False
    is_to_be_written: bool = False  # to disk, as soon as it is exported
    leaving: PageImage | None = None  # the copy that is being written, if host memory had it too
    is_of_session: bool = False  # a conversation that is likely to go on
    num_pins: int = 0  # parked sequences that will need it
    num_hits: int = 0
    filed_at: float = 0.0
    _children: list["PageNode"] = field(default_factory=list)
    _starts: list[Tokens] = field(default_factory=list)  # tokens of each child

    @property
    def tokens(self) -> Tokens:
        """The page's tokens; none in a root."""
        return self.info.tokens

    @property
    def is_stored(self) -> bool:
        """Whether its memory lies anywhere."""
        return self.image is not None or self.shelf is not None or self.is_on_disk

    @property
    def is_on_its_way(self) -> bool:
        """Whether its memory is about to lie somewhere."""
        return self.is_being_exported or self.is_being_written

    @property
    def children(self) -> Sequence["PageNode"]:
        """Pages that follow."""
        return self._children

    def add(self, tokens: Tokens) -> "PageNode":
        """Adds and returns a page that follows; there is none with these tokens yet."""
        parent = self.info
        info = PageInfo(parent.root, parent.key, page_key(parent.key, tokens), parent.end, tokens)
        child = PageNode(info, self)
        place = bisect_left(self._starts, tokens)
        self._starts.insert(place, tokens)
        self._children.insert(place, child)
        return child

    def remove(self, child: "PageNode") -> None:
        """Takes a page out, with what follows it."""
        place = bisect_left(self._starts, child.tokens)
        del self._starts[place], self._children[place]

    def find(self, tokens: Tokens) -> tuple["PageNode | None", int]:
        """Returns the page that begins most like `tokens`, and how many they have in common."""
        place = bisect_left(self._starts, tokens)
        best, length = None, 0
        for near in (place, place - 1):
            if 0 <= near < len(self._starts):
                common = common_length(self._starts[near], tokens)
                if common > length:
                    best, length = self._children[near], common
        return best, length

    def find_whole(self, tokens: Tokens) -> "PageNode | None":
        """Returns the longest page that `tokens` begin with as a whole."""
        lengths = {len(start) for start in self._starts if len(start) <= len(tokens)}
        for length in sorted(lengths, reverse=True):
            place = bisect_left(self._starts, tokens[:length])
            if place < len(self._starts) and self._starts[place] == tokens[:length]:
                return self._children[place]
        return None

    def subtree(self) -> Iterator["PageNode"]:
        """Yields the page and all that follow, each after its parent."""
        waiting = [self]
        while waiting:
            node = waiting.pop()
            yield node
            waiting.extend(node._children)


@dataclass(frozen=True, slots=True)
class Match:
    """The first `length` tokens of a page are what was asked for."""

    node: PageNode
    length: int

    @property
    def end(self) -> int:
        """Position up to which it helps."""
        return self.node.info.start + self.length


class PrefixTree:
    """The pages of all tenants; each has a root of his own, which nobody else's search begins at.

    Args:
        page_size: Tokens of a full page.
        can_cut: Whether the beginning of a page is of use; not so with snapshots of whole
            sequences whose memory can't be divided.
    """

    def __init__(self, page_size: int, *, can_cut: bool = True) -> None:
        self.page_size = page_size
        self._can_cut = can_cut
        self._roots: dict[bytes, PageNode] = {}

    def root(self, key: bytes) -> PageNode:
        """Returns the root of a tenant, which is made if need be."""
        node = self._roots.get(key)
        if node is None:
            node = self._roots[key] = PageNode(PageInfo(key, key, key, 0, ()), None)
        return node

    def known_root(self, key: bytes) -> PageNode | None:
        """Returns the root of a tenant who has stored something."""
        return self._roots.get(key)

    def match(self, root: bytes, tokens: Tokens) -> list[Match]:
        """Returns the stored pages that `tokens` begin with, in order, without gaps."""
        node, found, at = self._roots.get(root), list[Match](), 0
        while node is not None and at < len(tokens):
            child, length = self._find(node, tokens[at : at + self.page_size])
            if child is None or not child.is_stored:
                break
            found.append(Match(child, length))
            at += length
            node = child if length == len(child.tokens) else None
        return found

    def _find(self, node: PageNode, tokens: Tokens) -> tuple[PageNode | None, int]:
        if self._can_cut:
            return node.find(tokens)
        whole = node.find_whole(tokens)
        return whole, len(whole.tokens) if whole else 0

    def discard(self, node: PageNode) -> None:
        """Takes a page out of the tree, and with it a root that has nothing left."""
        parent = node.parent
        if parent is None:
            return
        parent.remove(node)
        if parent.parent is None and not parent.children:
            del self._roots[parent.info.key]

    def __iter__(self) -> Iterator[PageNode]:
        """All pages, each after its parent."""
        for root in tuple(self._roots.values()):
            nodes = root.subtree()
            next(nodes)
            yield from nodes


def common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Returns how many tokens two texts of the same type begin with in common.

    Slices are compared as a whole, ever longer ones as long as they are equal, then halved: that
    is faster than a loop over tokens, and costs nothing where texts differ early.
    """
    low, step, end = 0, _FIRST_STRETCH, min(len(left), len(right))
    while low < end:
        high = min(low + step, end)
        if left[low:high] != right[low:high]:
            return _first_difference(left, right, low, high)
        low, step = high, 2 * step
    return end


def _first_difference(left: Sequence[int], right: Sequence[int], low: int, high: int) -> int:
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low
