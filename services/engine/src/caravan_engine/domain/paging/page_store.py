"""Pages that nobody computes on: where they are filed, found, moved to and forgotten."""

from collections.abc import Iterable, Iterator, Sequence

from caravan_engine.domain.paging.cell_work import CellWork
from caravan_engine.domain.paging.filing import Filing
from caravan_engine.domain.paging.page_costs import PageCosts
from caravan_engine.domain.paging.page_image import PageImage, PageInfo
from caravan_engine.domain.paging.prefix_tree import Match, PageNode, PrefixTree, Tokens
from caravan_engine.domain.paging.residency import Residency
from caravan_engine.domain.paging.tiers import Tiers
from caravan_engine.domain.ports import DiskNews, PageFound, PageLost, PageRead, PageWritten
from caravan_engine.domain.spoilt import Spoilt


class PageStore:
    """Three places: cells (on a shelf), host memory, disk. Owned by the decode thread.

    A page is filed when its sequence leaves, and dropped from the tree when it lies nowhere any
    more, with all that follow it, which can't be reached without it.

    Args:
        tree: Finds pages.
        tiers: Where pages lie.
        work: Takes the moves that this needs.
        residency: Which pages may stay in cells.
        costs: What restoring takes.
        coalesces: Whether a page at the end of a text becomes one with what follows it; otherwise
            the new part is filed beside it.
    """

    def __init__(
        self,
        tree: PrefixTree,
        *,
        tiers: Tiers,
        work: CellWork,
        residency: Residency,
        costs: PageCosts,
        coalesces: bool = True,
    ) -> None:
        self.tree = tree
        self.host = tiers.host
        self.shelf = tiers.shelf
        self._disk = tiers.disk
        self._work = work
        self._residency = residency
        self._costs = costs
        self._coalesces = coalesces
        self._by_key: dict[bytes, PageNode] = {}
        self.num_cell_evictions = 0  # for want of room, or because it did not pay to stay
        self.num_host_evictions = 0
        self.num_coalesced = 0
        self.num_damaged = 0  # could not be restored

    @property
    def has_disk(self) -> bool:
        """Whether pages may lie on disk."""
        return self._disk is not None

    # ── finding ──

    def match(self, root: bytes, tokens: Tokens) -> list[Match]:
        """Returns the pages that a text begins with and that are worth having, and touches them."""
        found = []
        for match in self.tree.match(root, tokens):
            if not self._is_worth_it(match):
                break
            found.append(match)
        for match in reversed(found):  # so that a page goes after those that follow it
            self._touch(match.node)
        return found

    def wanted_from_disk(self, matches: Iterable[Match]) -> list[PageNode]:
        """Returns the pages that have to be read first, of those that memory takes together."""
        wanted, num_tokens = [], 0
        for node in (match.node for match in matches if match.node.shelf is None):
            num_tokens += len(node.tokens)
            if not self.host.has_room_for(num_tokens):
                break
            if node.image is None:
                wanted.append(node)
        return wanted

    def read(self, nodes: Iterable[PageNode], priority: int) -> None:
        """Begins to read pages from disk; `hear` gets them."""
        for node in nodes:
            if self._disk and not node.is_being_read:
                node.is_being_read = True
                self._disk.read(node.info.key, priority=priority)

    def _is_worth_it(self, match: Match) -> bool:
        node = match.node
        return node.shelf is not None or self._costs.pays_to_import(
            match.length, len(node.tokens), from_disk=node.image is None
        )

    def _touch(self, node: PageNode) -> None:
        self.host.touch(node)
        self.shelf.touch(node)

    # ── filing ──

    def file(self, filing: Filing, now: float) -> list[PageNode]:
        """Keeps a sequence's pages, those that aren't kept already; returns them in order.

        The sequence's cells must stay until the next step has begun.
        """
        path = list(self._pages_of(filing, now))
        for node in reversed(path):
            node.is_of_session = node.is_of_session or filing.is_of_session
            self._touch(node)
            if node.info.end <= len(filing.tokens):  # else it was filed by a longer text
                self._keep(node, filing.seq_id, now)
        return [node for node in path if node.parent is not None]

    def _pages_of(self, filing: Filing, now: float) -> Iterator[PageNode]:
        """Yields the page of each part of a text, new ones included."""
        node, at = self.tree.root(filing.root), 0
        tokens, size = filing.tokens, self.tree.page_size
        while at < len(tokens):
            part = tokens[at : at - at % size + size]
            child, length = node.find(part)
            if child is None or length < min(len(part), len(child.tokens)):
                child = None  # it goes another way
            elif length < len(part) and self._coalesces and len(child.tokens) < size:
                self._absorb(child)
                child = None
                node = node if at else self.tree.root(filing.root)  # without pages it was gone
            if child is None:
                child = self._add(node, part, now)
            yield child
            node, at = child, at + min(len(part), len(child.tokens))

    def _absorb(self, node: PageNode) -> None:
        """Gives up a page whose tokens a longer one will hold."""
        if not node.children and not node.num_pins:
            self.num_coalesced += 1
            self.drop(node)

    def _add(self, parent: PageNode, tokens: Tokens, now: float) -> PageNode:
        node = parent.add(tokens)
        node.filed_at = now
        self._by_key[node.info.key] = node
        return node

    def _keep(self, node: PageNode, seq_id: int, now: float) -> None:
        if node.shelf is None and self._residency.lets_in(node, now):
            self._put_on_shelf(node, seq_id)
        if not (node.is_stored or node.is_on_its_way or self._export(node, seq_id)):
            self.drop(node)  # nor can be reached what follows

    def bring_out(self, nodes: Iterable[PageNode], seq_id: int, num_tokens: int) -> None:
        """Wants images of pages of a sequence, of which so much is computed, that have none."""
        for node in nodes:
            if not (node.image or node.is_being_exported) and node.info.end <= num_tokens:
                self._export(node, seq_id)

    def _export(self, node: PageNode, seq_id: int) -> bool:
        """Wants an image of a page; returns whether there is room for one."""
        if not self.host.has_room_for(len(node.tokens)):
            return False
        node.is_being_exported = True
        self._work.export(seq_id, node.info)
        return True

    def _put_on_shelf(self, node: PageNode, seq_id: int) -> None:
        place = self.shelf.place(node)
        if place is None and (other := self.shelf.in_the_way(node)):
            self.unshelve(other)
            place = self.shelf.place(node)
        if place is not None:
            self._work.share(seq_id, place, node.info.start, node.info.end)
            self.shelf.put(node, place)

    # ── before anybody needs the memory ──

    def checkpoint(self, filing: Filing, now: float) -> list[PageNode]:
        """Keeps full pages of a sequence that goes on, and has them written to disk.

        Returns:
            Those that are or will be kept.
        """
        path = list(self._pages_of(filing, now))
        for node in path:
            node.is_of_session = node.is_of_session or filing.is_of_session
        self.save(path, filing.seq_id)
        return [node for node in path if node.parent is not None]

    def save(self, nodes: Iterable[PageNode], seq_id: int) -> None:
        """Has pages of a sequence written to disk, which stay wherever else they are."""
        for node in nodes:
            if node.parent is None or node.is_on_disk or node.is_being_written:
                continue
            if node.image is not None:
                self._write(node, node.image, is_kept=True)
            elif node.is_being_exported or self._export(node, seq_id):
                node.is_to_be_written = True
            elif not node.is_stored:  # nor can be reached what follows
                self.drop(node)

    def _write(self, node: PageNode, image: PageImage, *, is_kept: bool) -> None:
        if self._disk:
            node.is_being_written = True
            node.leaving = image if is_kept else None
            protected = node.is_of_session or node.num_pins > 0
            self._disk.write(image, protected=protected, kept=is_kept)

    # ── what came of it ──

    def exported(self, images: Iterable[PageImage]) -> None:
        """Takes images that a step exported."""
        for image in images:
            if node := self._by_key.get(image.info.key):
                node.is_being_exported = False
                self.host.add(node, image)
                if node.is_to_be_written and not (node.is_on_disk or node.is_being_written):
                    self._write(node, image, is_kept=True)
                node.is_to_be_written = False
            else:  # dropped meanwhile
                image.zero()
        self.fit_host()

    def hear(self) -> bool:
        """Takes the news of the disk; returns whether there was any."""
        news = self._disk.poll() if self._disk else ()
        for each in news:
            self._hear(each)
        self.fit_host()
        return bool(news)

    def _hear(self, news: DiskNews) -> None:
        if isinstance(news, PageFound):
            self.found_on_disk((news.info,))
            return
        key = news.image.info.key if isinstance(news, PageRead) else news.key
        node = self._by_key.get(key)
        if node is None:  # it was dropped meanwhile
            self._hear_of_dropped(news)
            return
        match news:
            case PageWritten():
                node.is_being_written, node.is_on_disk, node.leaving = False, True, None
            case PageRead(image, read_s):
                self._costs.read(read_s, len(image.info.tokens))
                node.is_being_read = False
                if node.image is None:
                    self.host.add(node, image)
            case PageLost():
                node.is_being_written = node.is_being_read = node.is_on_disk = False
                node.leaving = None
                self.drop_if_lost(node)

    def _hear_of_dropped(self, news: DiskNews) -> None:
        if isinstance(news, PageWritten):
            self.forget_on_disk((news.key,))
        elif isinstance(news, PageRead):
            news.image.zero()

    def found_on_disk(self, pages: Iterable[PageInfo]) -> None:
        """Takes pages that were on disk at the start, each after the one before it."""
        for info in pages:
            if node := self._place_of(info):
                node.is_on_disk = True
            else:
                self.forget_on_disk((info.key,))

    def take_in(self, images: Iterable[PageImage]) -> None:
        """Takes pages that another worker computed, each after the one before it."""
        for image in images:
            has_room = self.host.has_room_for(len(image.info.tokens))
            node = self._place_of(image.info) if has_room else None
            if node and node.image is None:
                self.host.add(node, image)
        self.fit_host()

    def _place_of(self, info: PageInfo) -> PageNode | None:
        """Returns a page's node, which is made if need be; None without the page before it."""
        parent = self._by_key.get(info.parent)
        if parent is None and info.start == 0:
            parent = self.tree.root(info.root)
        if parent is None:
            return None
        return self._by_key.get(info.key) or self._add(parent, info.tokens, 0.0)

    # ── making room ──

    def fit_host(self) -> None:
        """Lets go of images until the budget is kept."""
        for node in self.host.victims():
            image = self.host.remove(node)
            self.num_host_evictions += 1
            if image and self.host.spills and not (node.is_on_disk or node.is_being_written):
                self._write(node, image, is_kept=False)
            self.drop_if_lost(node)

    def tidy_cells(self, now: float) -> None:
        """Lets idle pages leave the cells as the residency says."""
        for node in self.shelf:
            if self._residency.lets_in(node, now):
                break
            self.unshelve(node)
        cells = self._work.cells
        self.free_cells(self._residency.num_to_free(cells.num_used, cells.num_cells))

    def free_cells(self, num: int) -> int:
        """Lets idle pages leave the cells until so many are free, or none is left.

        Returns:
            How many cells became free; some pages may still be in use by sequences.
        """
        before = self._work.cells.num_free
        for node in self.shelf:
            if self._work.cells.num_free - before >= num:
                break
            self.unshelve(node)
        return self._work.cells.num_free - before

    def unshelve(self, node: PageNode) -> None:
        """Takes an idle page out of the cells, to host memory if there is room."""
        seq_id = self.shelf.remove(node)
        if seq_id is None:
            return
        self.num_cell_evictions += 1
        if not node.is_stored and not node.is_on_its_way and not self._export(node, seq_id):
            self.drop(node)
        self._work.release(seq_id, node.info.start, node.info.end)

    def resize(self, *, host_bytes: int | None, disk_bytes: int | None) -> None:
        """Changes budgets; None leaves one as it is."""
        if host_bytes is not None:
            self.host.budget_bytes = host_bytes
            self.fit_host()
        if disk_bytes is not None and self._disk:
            self._disk.resize(disk_bytes)

    # ── forgetting ──

    def damaged(self, key: bytes) -> None:
        """Drops a page that could not be restored."""
        if node := self._by_key.get(key):
            self.num_damaged += 1
            self.drop(node)

    def spoilt(self, spoilt: Spoilt) -> None:
        """Drops pages that were copied or put on the shelf without what was to be restored."""
        for node in self.shelf:
            seq_id, info = node.shelf, node.info
            if seq_id is not None and spoilt.lacks(seq_id, info.start, info.end):
                self.drop(node)
        for key in spoilt.keys:
            if node_of_key := self._by_key.get(key):
                self.drop(node_of_key)

    def drop_all(self, root: bytes) -> int:
        """Zeroes and drops every page of a tenant; returns how many there were."""
        node = self.tree.known_root(root)
        pages = list(node.children) if node else []
        return sum(self.drop(page, wipes=True) for page in pages)

    def drop(self, node: PageNode, *, wipes: bool = False) -> int:
        """Drops a page and all that follow it; returns how many."""
        dropped = list(node.subtree())
        self.tree.discard(node)
        self.forget_on_disk([e.info.key for e in dropped if e.is_on_disk or e.is_being_written])
        for each in dropped:
            self._by_key.pop(each.info.key, None)
            image = self.host.remove(each)
            for each_image in (image, each.leaving):
                if each_image and wipes:
                    each_image.zero()
            if (seq_id := self.shelf.remove(each)) is not None:
                self._work.release(seq_id, each.info.start, each.info.end)
            each.is_being_read = False  # what the disk answers reaches nobody any more
            each.parent = None
        return len(dropped)

    def drop_if_lost(self, node: PageNode) -> None:
        """Drops a page that lies nowhere any more."""
        if not node.is_stored and not node.is_on_its_way and node.parent is not None:
            self.drop(node)

    def forget_on_disk(self, keys: Sequence[bytes]) -> None:
        """Has files of pages removed, whatever the tree says of them."""
        if self._disk and keys:
            self._disk.forget(keys)

    @property
    def num_pages(self) -> int:
        """Pages in the tree, wherever they lie."""
        return len(self._by_key)

    @property
    def num_on_disk(self) -> int:
        """Pages on disk."""
        return sum(node.is_on_disk for node in self._by_key.values())
