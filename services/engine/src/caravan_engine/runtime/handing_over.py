"""Moves what runs on a worker to whoever goes on with it, one request after the other."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future

from caravan_engine.domain.errors import DrainingError
from caravan_engine.domain.paging.kv_manager import KvManager
from caravan_engine.domain.paging.page_image import PageImage
from caravan_engine.domain.paging.prefix_tree import PageNode
from caravan_engine.domain.request import QueuedRequest
from caravan_engine.domain.scheduling.scheduler import Scheduler
from caravan_engine.domain.sequence import SequenceGroup

Leave = Callable[[QueuedRequest, Sequence[PageImage]], Future[None]]
"""Leaves a request's pages where others find them; done when they can, or never will."""


class HandingOver:
    """Parks a request, has its pages left, ends it, and turns to the next. On the decode thread.

    Nobody computes from its beginning to its end, which is a matter of milliseconds for each
    request. If the others went on meanwhile, as would be obvious, they would compute beside whoever
    takes over, often on the same cores, where threads that wait for each other slow both down by
    far more. All at once would need room for everything at once, and nobody could begin before the
    last one was written.

    Args:
        scheduler: Has the requests.
        kv: Has their pages.
        leave: Takes them, by a thread of its own.
        carry_out: Makes a step of nothing but what is to be moved.
        patience_s: For so long `advance` waits for that thread.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        kv: KvManager,
        leave: Leave,
        carry_out: Callable[[], None],
        *,
        patience_s: float = 0.05,
    ) -> None:
        self._scheduler = scheduler
        self._kv = kv
        self._leave = leave
        self._carry_out = carry_out
        self._patience_s = patience_s
        self._group: SequenceGroup | None = None
        self._leaving: Future[None] | None = None
        self._num_ended: int | None = None
        self.done: Future[int] = Future()
        """Tells how many requests were ended, when none is left."""

    def advance(self, now: float) -> bool:
        """Does what can be done now; returns whether something is left."""
        if self._num_ended is None:
            self._num_ended = self._scheduler.end_new(DrainingError(), now)
        if self._group is None:
            self._group = self._scheduler.take_aside(now)
            if self._group is None:
                self.done.set_result(self._num_ended)
                return False
            self._leaving = self._left(self._group)
        if not self._group.live or self._has_left():
            self._num_ended += bool(self._group.live)  # else its caller left
            self._scheduler.end(self._group, DrainingError(), now)
            self._group = None
        return True

    def _left(self, group: SequenceGroup) -> Future[None]:
        """Has the pages left of a request that is parked."""
        nodes = list(_each_once(map(self._kv.parked_pages, group.live)))
        self._carry_out()
        return self._leave(group.request, _images_of(nodes))

    def _has_left(self) -> bool:
        if self._leaving is None:
            return True
        with contextlib.suppress(TimeoutError):
            self._leaving.result(timeout=self._patience_s)
        return self._leaving.done()


def _each_once(paths: Iterable[Iterable[PageNode]]) -> Iterator[PageNode]:
    """Yields the pages of a request's choices, of which they share the beginning."""
    return iter({node: None for path in paths for node in path})


def _images_of(nodes: Iterable[PageNode]) -> list[PageImage]:
    """Returns the images there are; what follows a missing one could not be used."""
    images: list[PageImage] = []
    missing: set[bytes] = set()
    for node in nodes:
        if node.image is None or node.info.parent in missing:
            missing.add(node.info.key)
        else:
            images.append(node.image)
    return images
