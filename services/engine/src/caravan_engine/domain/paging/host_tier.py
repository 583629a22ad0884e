"""Images of pages in host memory, within a budget."""

from collections.abc import Iterator

from caravan_engine.domain.paging.page_image import PageImage
from caravan_engine.domain.paging.prefix_tree import PageNode


class HostTier:
    """Keeps images; the least recently used go first. Owned by the decode thread.

    Pages of parked sequences go last of all. Pages of conversations go first where they go to
    disk, and late where they would be gone.

    Args:
        budget_bytes: Most bytes of images; 0 keeps none.
        bytes_per_token: Size of an image.
        spills: Whether what has to go is written to disk.
    """

    def __init__(self, budget_bytes: int, *, bytes_per_token: int, spills: bool) -> None:
        self.budget_bytes = budget_bytes
        self._bytes_per_token = bytes_per_token
        self.spills = spills
        self.num_bytes = 0
        self.num_tokens = 0
        self._nodes: dict[PageNode, None] = {}  # the least recently used first

    def __len__(self) -> int:
        return len(self._nodes)

    def has_room_for(self, num_tokens: int) -> bool:
        """Whether an image can be kept, if need be in the place of others."""
        return num_tokens * self._bytes_per_token <= self.budget_bytes

    def add(self, node: PageNode, image: PageImage) -> None:
        """Takes an image; the budget may be exceeded until `victims` are removed."""
        self.remove(node)
        node.image = image
        self._nodes[node] = None
        self.num_bytes += len(image.data)
        self.num_tokens += len(image.info.tokens)

    def touch(self, node: PageNode) -> None:
        """Makes a page the most recently used one."""
        if node in self._nodes:
            del self._nodes[node]
            self._nodes[node] = None

    def remove(self, node: PageNode) -> PageImage | None:
        """Gives an image up and returns it."""
        if node not in self._nodes:
            return None
        del self._nodes[node]
        image, node.image = node.image, None
        if image is not None:
            self.num_bytes -= len(image.data)
            self.num_tokens -= len(image.info.tokens)
        return image

    def victims(self) -> Iterator[PageNode]:
        """Yields whom to remove next, as long as the budget is exceeded."""
        while self.num_bytes > self.budget_bytes:
            yield self._next_victim()

    def _next_victim(self) -> PageNode:
        best, least = None, (True, True)
        for node in self._nodes:
            rank = self._rank(node)
            if best is None or rank < least:
                best, least = node, rank
            if least == (False, False):
                break
        if best is None:
            raise ValueError("no images, and yet they have a size")
        return best

    def _rank(self, node: PageNode) -> tuple[bool, bool]:
        """Orders by what the class says; of equals the oldest goes."""
        return node.num_pins > 0, node.is_of_session != self.spills
