"""What running sequences have in the cells, and where they get it from.

Owns who shares with whom and who waits for whom. Pages that nobody computes on are the page
store's; whom to seat, and whom to park, is the scheduler's.
"""

from collections.abc import Callable, Collection, Iterable

from caravan_engine.domain.kv_numbers import KvSnapshot, MoveTimes
from caravan_engine.domain.paging.cell_needs import CellNeeds
from caravan_engine.domain.paging.cell_work import CellWork
from caravan_engine.domain.paging.checkpoints import Checkpoints
from caravan_engine.domain.paging.compaction import Compactor
from caravan_engine.domain.paging.moves import Move
from caravan_engine.domain.paging.page_costs import PageCosts
from caravan_engine.domain.paging.page_store import PageStore
from caravan_engine.domain.paging.place import Place, filing_of
from caravan_engine.domain.paging.prefix_tree import Match, PageNode, common_length
from caravan_engine.domain.paging.snapshot import snapshot_of
from caravan_engine.domain.pooling import Pooler
from caravan_engine.domain.sequence import Sequence
from caravan_engine.domain.spoilt import spoilt_by
from caravan_engine.domain.step import StepResult

_LEAST_TO_FOLLOW = 16
_READ_NOW = 1000  # priority of what a sequence with a seat waits for
_MANY = 4
"""Tokens of each sequence from which on a step tells what prompts cost."""


class KvManager:
    """Owned by the decode thread.

    A sequence may begin when `prepare` says so: until then somebody else computes the beginning
    that both have, or the disk reads it.

    Args:
        work: Takes the moves.
        store: Where pages are found and filed; None reuses nothing.
        costs: Learns what steps and moves take.
        root_of: Names the root of a tenant.
        shares: Whether sequences may have cells in common; not where memory can't be cut.
        compactor: Keeps the highest used cell low; None where it costs nothing.
        checkpoints: Have pages written to disk before anybody needs their memory.
    """

    def __init__(
        self,
        work: CellWork,
        store: PageStore | None,
        *,
        costs: PageCosts,
        root_of: Callable[[str], bytes],
        shares: bool = True,
        compactor: Compactor | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self._work = work
        self.cells = work.cells
        self.store = store
        self._costs = costs
        self._root_of = root_of
        self._shares = shares
        self._compactor = compactor
        self.checkpoints = checkpoints
        self._places: dict[Sequence, Place] = {}  # in order of admission
        self.needs = CellNeeds(self._places, work.cells, root_of=root_of, shares=shares)
        self._pinned: dict[Sequence, list[PageNode]] = {}
        self._prefetched: set[Sequence] = set()
        self._move_times = MoveTimes()  # of all steps together
        self._unfiled: set[Sequence] = set()  # whose tenant's pages were dropped meanwhile
        self._is_wipe_due = False

    # ── seats ──

    def seat(self, sequence: Sequence, seat: int) -> None:
        """Notes that a sequence has a seat; it has nothing in the cells yet."""
        sequence.num_computed = 0
        self._places[sequence] = Place(seat, self._root(sequence))
        self._prefetched.discard(sequence)

    def prepare(self, sequence: Sequence) -> bool:
        """Gives a sequence what others have of its text; returns whether it may compute."""
        place = self._places[sequence]
        if place.is_ready:
            return True
        if isinstance(sequence.work, Pooler) or self._waits(place):
            place.is_ready = isinstance(sequence.work, Pooler)
            return place.is_ready
        place.is_ready = self._begin(sequence, place)
        if place.is_ready:
            self._unpin(sequence)
        return place.is_ready

    def leave(self, sequence: Sequence, now: float) -> None:
        """Frees a sequence's cells, for good; its pages are filed for others."""
        self._unpin(sequence)
        self._prefetched.discard(sequence)
        place = self._places.pop(sequence, None)
        if place is not None:
            self._let_go(sequence)
            self._file(sequence, place, now)
            self._work.release(place.seat)
        if self.checkpoints:
            self.checkpoints.left(sequence)
        self._unfiled.discard(sequence)

    def park(self, sequence: Sequence, now: float, *, leaves: bool = False) -> None:
        """Frees a sequence's cells for a time; its pages go where it finds them again.

        If it `leaves` for another worker all of them go to host memory.
        """
        place = self._places.pop(sequence)
        self._let_go(sequence)
        nodes = self._file(sequence, place, now)
        self._pin(sequence, nodes)
        if self.checkpoints:
            self.checkpoints.parked(nodes, place.seat)
        if self.store and leaves:
            self.store.bring_out(nodes, place.seat, sequence.num_computed)
        self._work.release(place.seat)
        sequence.num_computed = 0

    def parked_pages(self, sequence: Sequence) -> Collection[PageNode]:
        """Returns the pages that a parked sequence will need, each after the one before it."""
        return self._pinned.get(sequence, ())

    def begin_again(self, sequence: Sequence) -> None:
        """Forgets what a sequence has in the cells, whose state is unknown."""
        place = self._places[sequence]
        place.is_ready, place.leader, place.awaited = False, None, []
        place.has_waited = False
        self._work.release(place.seat)
        sequence.num_computed = 0

    # ── steps ──

    def computed(self, sequence: Sequence, start: int, num: int) -> None:
        """Notes what a step put into the cells, in the order of its batch."""
        self.cells.take(self._places[sequence].seat, start, num)
        sequence.num_computed = start + num

    def moved(self, result: StepResult) -> Collection[int]:
        """Takes what the moves of a step brought, and what they and the step cost.

        Returns:
            The sequence ids that lack memory because pages could not be restored.
        """
        self._costs.moved(result.move_times)
        plan = result.plan
        if plan.moves:
            self._move_times += result.move_times
        if plan.chunks and result.failure_code is None:
            is_prompt = plan.num_tokens > _MANY * len(plan.chunks)
            self._costs.stepped(result.decode_s, plan.num_tokens, is_prompt=is_prompt)
        if self.store is None:
            return ()
        spoilt = spoilt_by(result.failed_imports, plan.moves)
        self.store.spoilt(spoilt)
        self.store.exported(result.images)
        for failed in result.failed_imports:
            self.store.damaged(failed.image.info.key)
        return spoilt.seq_ids

    def take_moves(self) -> tuple[Move, ...]:
        """Returns what the next step does to the cells first."""
        return self._work.take_moves()

    def make_room(self, num: int) -> bool:
        """Lets idle pages leave the cells; returns whether so many are free then."""
        missing = num - self.cells.num_free
        if missing > 0 and self.store:
            self.store.free_cells(missing)
        return self.cells.num_free >= num

    def tidy(self, now: float) -> None:
        """Does what keeps the cells in order between steps."""
        if self.checkpoints:
            for sequence, place in self._places.items():
                if self._is_filed(sequence):
                    self.checkpoints.look_at(sequence, place, now)
        if self.store:
            self.store.tidy_cells(now)
        if self._is_wipe_due:
            self._wipe()
        if self._compactor:
            self._compactor.compact(place.seat for place in self._places.values())

    def hear(self) -> None:
        """Takes the news of the disk."""
        if self.store:
            self.store.hear()

    def prefetch(self, sequence: Sequence, rank: int) -> None:
        """Begins to read what a waiting sequence will need; the first in line comes first."""
        if self.store is None or sequence in self._prefetched:
            return
        self._prefetched.add(sequence)
        if not isinstance(sequence.work, Pooler):
            matches = self._matches(sequence, self._root(sequence))
            if wanted := self.store.wanted_from_disk(matches):
                self._pin(sequence, [match.node for match in matches])
                self.store.read(wanted, _READ_NOW - 1 - rank)

    # ── forgetting ──

    def drop(self, tenant: str) -> int:
        """Zeroes and forgets what is stored of a tenant's texts; returns how many pages it was.

        Requests that are there already go on, but what they computed is not filed. Cells are zeroed
        as soon as nobody computes.
        """
        root = self._root_of(tenant)
        known = (*self._places, *self._pinned)
        self._unfiled.update(each for each in known if self._root(each) == root)
        self._is_wipe_due = True
        return self.store.drop_all(root) if self.store else 0

    def resize(self, *, host_bytes: int | None, disk_bytes: int | None) -> None:
        """Changes the budgets of pages; None leaves one as it is."""
        if self.store:
            self.store.resize(host_bytes=host_bytes, disk_bytes=disk_bytes)

    def _wipe(self) -> None:
        if self._places:
            return
        if self.store:
            for node in self.store.shelf:
                self.store.unshelve(node)
        if not self.cells.num_used:
            self._work.wipe()
            self._is_wipe_due = False

    def _root(self, sequence: Sequence) -> bytes:
        return self._root_of(sequence.request.client.tenant)

    # ── what it looks like ──

    @property
    def num_free(self) -> int:
        """Cells that nobody has."""
        return self.cells.num_free

    @property
    def num_idle(self) -> int:
        """Cells at most that idle pages could give up."""
        return self.store.shelf.num_tokens if self.store else 0

    @property
    def reads_ahead(self) -> bool:
        """Whether pages of waiting sequences may lie on disk."""
        return self.store is not None and self.store.has_disk

    @property
    def can_park(self) -> bool:
        """Whether parked sequences find their pages again."""
        return self.store is not None and self.store.host.budget_bytes > 0

    def snapshot(self) -> KvSnapshot:
        """Returns the numbers of this moment."""
        shares, num_seated = self._shares, len(self._places)
        return snapshot_of(
            self.cells, self.store, self._move_times, num_seated=num_seated, shares=shares
        )

    # ── beginnings ──

    def _let_go(self, leader: Sequence) -> None:
        """Nobody waits any more for one who leaves: when he comes back he may wait for them."""
        for place in self._places.values():
            if place.leader is leader:
                place.leader = None

    def _waits(self, place: Place) -> bool:
        """Whether whom or what a sequence waits for is still to come."""
        place.awaited = [node for node in place.awaited if node.is_being_read]
        leader = place.leader
        if place.awaited or leader is None:
            return bool(place.awaited)
        return leader.num_computed < place.num_common and leader.paused_since is None

    def _begin(self, sequence: Sequence, place: Place) -> bool:
        place.leader = None
        self._share_running(sequence, place)
        if self.store and not self._restore(sequence, place, self.store):
            return False
        return not self._follow(sequence, place)

    def _share_running(self, sequence: Sequence, place: Place) -> None:
        """Takes over without a copy what the one with the most in common has computed."""
        best, length = None, sequence.num_computed
        for other, common in self._companions(sequence, place):
            available = min(common, other.num_computed)
            if available > length:
                best, length = other, available
        if best is not None:
            source = self._places[best].seat
            self._work.share(source, place.seat, sequence.num_computed, length)
            sequence.num_computed = length

    def _restore(self, sequence: Sequence, place: Place, store: PageStore) -> bool:
        """Takes over stored pages; returns whether that is done, or has to wait for the disk."""
        matches = self._matches(sequence, place.root)
        matches = [match for match in matches if match.end > sequence.num_computed]
        wanted = [] if place.has_waited else store.wanted_from_disk(matches)
        if wanted:
            self._pin(sequence, [match.node for match in matches])
            store.read(wanted, _READ_NOW)
            place.awaited, place.has_waited = wanted, True
            return False
        for match in matches:
            if not self._restore_page(sequence, place, match):
                break
        return True

    def _restore_page(self, sequence: Sequence, place: Place, match: Match) -> bool:
        node, start = match.node, sequence.num_computed
        if node.shelf is not None:
            self._work.share(node.shelf, place.seat, start, match.end)
            node.num_hits += 1
        elif node.image is not None and self.make_room(len(node.tokens)):
            self._work.restore(node.image, place.seat, start, match.end)
            node.num_hits += 1
        else:
            return False
        sequence.num_computed = match.end
        return True

    def _follow(self, sequence: Sequence, place: Place) -> bool:
        """Finds somebody who is about to compute more of the beginning; returns whether.

        Choices of one request always do: their limits count what they share once.
        """
        place.num_common = sequence.num_computed
        for other, common in self._companions(sequence, place):
            least = 1 if other.group is sequence.group else _LEAST_TO_FOLLOW
            is_ahead = common >= sequence.num_computed + least and common > place.num_common
            if is_ahead and other.num_computed < common and other.paused_since is None:
                place.leader, place.num_common = other, common
        return place.leader is not None

    def _companions(self, sequence: Sequence, place: Place) -> Iterable[tuple[Sequence, int]]:
        """Yields who was seated before, of the same tenant, and how much they have in common."""
        if not self._shares:
            return
        limit = len(sequence.tokens) - 1
        for other, its in self._places.items():
            if other is sequence:
                return
            if its.root == place.root and not isinstance(other.work, Pooler):
                common = min(limit, common_length(other.tokens, sequence.tokens))
                if common:
                    yield other, common

    def _matches(self, sequence: Sequence, root: bytes) -> list[Match]:
        if self.store is None:
            return []
        return self.store.match(root, tuple(sequence.tokens[:-1]))

    # ── endings ──

    def _file(self, sequence: Sequence, place: Place, now: float) -> list[PageNode]:
        if self.store is None or not self._is_filed(sequence):
            return []
        return self.store.file(filing_of(sequence, place, sequence.num_computed), now)

    def _is_filed(self, sequence: Sequence) -> bool:
        """Whether what a sequence computes may be of use to others."""
        is_kept = not sequence.num_failures and sequence not in self._unfiled
        return is_kept and not isinstance(sequence.work, Pooler)

    def _pin(self, sequence: Sequence, nodes: list[PageNode]) -> None:
        """Keeps pages in memory until the sequence has them, in place of those it had pinned."""
        self._unpin(sequence)
        for node in nodes:
            node.num_pins += 1
        self._pinned[sequence] = nodes

    def _unpin(self, sequence: Sequence) -> None:
        for node in self._pinned.pop(sequence, ()):
            node.num_pins -= 1
