"""The disk tier: an index in memory, files by threads of its own.

One thread writes, removes and erases, in the order of the calls, so that a page that is forgotten
and written again ends as the last call says. Others read. The lock is held for bookkeeping only,
never while something waits for the disk.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock

from caravan_engine.domain.kv_numbers import DiskStats
from caravan_engine.domain.paging.page_image import PageImage, PageInfo
from caravan_engine.domain.ports import DiskNews, PageFound, PageLost, PageRead, PageWritten
from caravan_engine.runtime.page_io import JobThreads
from caravan_engine.storage.page_files import Codec, PageIdentity, PagePacker
from caravan_engine.storage.page_folder import PageFolder
from caravan_engine.storage.page_index import PageIndex, StoredPage
from caravan_engine.storage.page_inventory import take_inventory
from caravan_engine.storage.page_losses import LossCause, PageFileError, PageLosses

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSettings:
    """Where pages go, and how."""

    directory: Path
    budget_bytes: int
    codec: Codec = Codec.NONE
    num_readers: int = 1
    reads_ahead: bool = True  # otherwise `read` itself waits for the disk
    write_queue_bytes: int = 64 * 2**20


@dataclass(slots=True, eq=False)
class _Write:
    image: PageImage
    is_protected: bool
    is_kept: bool = False  # by others, who may be using it
    is_cancelled: bool = False

    @property
    def key(self) -> bytes:
        return self.image.info.key

    @property
    def num_bytes(self) -> int:
        return memoryview(self.image.data).nbytes


@dataclass(slots=True)
class _Counts:
    reading: int = 0
    erasing: int = 0
    written: int = 0
    read: int = 0
    failed_reads: int = 0
    writes: dict[bytes, list[_Write]] = field(default_factory=dict)


class DiskPages:
    """Implements `PageDisk`. A folder that can't be used makes a tier that loses everything.

    Construction looks at the files of an earlier run and blocks meanwhile.

    Args:
        settings: see there.
        identity: of the context that pages come from and go to.
        notify: called by any thread when `poll` has something to say; must not block.
    """

    def __init__(
        self,
        settings: DiskSettings,
        identity: PageIdentity,
        notify: Callable[[], None] = lambda: None,
    ) -> None:
        self._notify = notify
        self._lock = Lock()
        self._news: deque[DiskNews] = deque()
        self._losses = PageLosses()
        self._counts = _Counts()
        self._index = PageIndex(settings.budget_bytes)
        self._packer = PagePacker(identity, settings.codec)
        self._opening = partial(PageFolder.open, settings.directory, identity)
        self._folder: PageFolder | None = None
        self._found = self._open(settings.directory)
        self._writer = JobThreads("page-writer", capacity=settings.write_queue_bytes)
        num_readers = settings.num_readers if settings.reads_ahead else 0
        self._readers = JobThreads("page-reader", num_threads=num_readers)
        self._reads_ahead = settings.reads_ahead

    def found(self) -> Sequence[PageInfo]:
        """Returns the pages of an earlier run, once: each after the one that it continues."""
        found, self._found = self._found, []
        return found

    def take_over(self) -> bool:
        """Takes the folder if it was held at the start; returns whether nobody holds it now."""
        try:
            if self._folder is None:
                self._news.extend(map(PageFound, self._take(self._opening())))
                self._notify()
        except OSError as error:  # only another worker's lock goes away by itself
            return not isinstance(error, BlockingIOError)
        return True

    def write(self, image: PageImage, *, protected: bool, kept: bool = False) -> None:
        """See `PageDisk`; also loses what comes faster than the disk takes it."""
        write = _Write(image, protected, kept)
        with self._lock:
            if self._folder is None:
                self._lose(write.key, LossCause.UNUSABLE)
            elif self._writer.submit(partial(self._store, write), weight=write.num_bytes):
                self._counts.writes.setdefault(write.key, []).append(write)
            else:
                self._lose(write.key, LossCause.QUEUE_FULL)

    def read(self, key: bytes, *, priority: int) -> None:
        """See `PageDisk`."""
        with self._lock:
            page = self._index.get(key)
            if page is None:
                self._counts.failed_reads += 1
                self._lose(key, LossCause.UNKNOWN)
                return
            page.num_readers += 1
            self._counts.reading += 1
        job = partial(self._fetch, page)
        if self._reads_ahead:
            self._readers.submit(job, priority=priority)
        else:
            job()

    def forget(self, keys: Sequence[bytes]) -> None:
        """See `PageDisk`; a write that is under way ends as lost."""
        if self._folder is None:
            return
        with self._lock:
            for key in keys:
                page = self._index.get(key)
                if page is not None:
                    self._index.remove(page)
                for write in self._counts.writes.get(key, ()):
                    write.is_cancelled = True
            if self._writer.submit(partial(self._erase, tuple(keys))):
                self._counts.erasing += len(keys)

    def adopt(self, pages: Sequence[PageInfo]) -> Future[None]:
        """Takes over pages of a text that other workers of the model have, up to the first missing.

        Any thread may ask; when it is done `poll` tells what was found.
        """
        done: Future[None] = Future()
        job = partial(self._adopt_all, pages, done)
        if self._folder is None or not self._writer.submit(job, priority=1):
            done.set_result(None)
        return done

    def resize(self, budget_bytes: int) -> None:
        """See `PageDisk`."""
        with self._lock:
            self._index.budget_bytes = budget_bytes
        self._writer.submit(self._trim)

    def poll(self) -> Sequence[DiskNews]:
        """See `PageDisk`."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def stats(self) -> DiskStats:
        """Counts everything; any thread may ask."""
        with self._lock:
            counts = self._counts
            return DiskStats(
                is_usable=self._folder is not None,
                num_pages=len(self._index),
                num_bytes=self._index.num_bytes,
                budget_bytes=self._index.budget_bytes,
                num_writing=sum(map(len, counts.writes.values())),
                num_reading=counts.reading,
                num_erasing=counts.erasing,
                num_written=counts.written,
                num_read=counts.read,
                num_failed_reads=counts.failed_reads,
                lost={cause.value: num for cause, num in self._losses.counts.items()},
            )

    def close(self) -> None:
        """Writes and erases what was ordered, gives up reads and ends the threads.

        Blocks meanwhile; may be called again.
        """
        self._readers.close(finish=False)
        self._writer.close(finish=True)
        if self._folder is not None:
            self._folder.close()

    def _open(self, directory: Path) -> list[PageInfo]:
        try:
            return self._take(self._opening())
        except OSError as error:
            log = _log.warning if isinstance(error, BlockingIOError) else _log.error
            extra = {"directory": str(directory), "detail": _words(error)}
            log("folder of pages can't be used: no pages are kept on disk", extra=extra)
            return []

    def _take(self, folder: PageFolder) -> list[PageInfo]:
        index = PageIndex(self._index.budget_bytes)
        found = take_inventory(folder, index, self._losses)
        with self._lock:
            self._folder, self._index = folder, index
        return found

    def _store(self, write: _Write) -> None:
        error = _attempt(partial(self._put, write), LossCause.WRITE_FAILED)
        with self._lock:
            waiting = self._counts.writes[write.key]
            waiting.remove(write)
            if not waiting:
                del self._counts.writes[write.key]
            if error is None:
                self._counts.written += 1
                self._news.append(PageWritten(write.key))
            else:
                self._lose(write.key, error.cause)
        if write.is_cancelled and not write.is_kept:
            write.image.zero()
        self._report(error)
        self._notify()

    def _put(self, write: _Write) -> None:
        if self._is_there(write):
            return
        header, stored = self._packer.pack(write.image, protected=write.is_protected)
        info, num_bytes = write.image.info, len(header) + len(stored)
        page = StoredPage(write.key, info.parent, num_bytes, write.is_protected)
        self._make_room(page)
        self._existing_folder.write(page.key, header, stored)
        with self._lock:
            if write.is_cancelled:  # the order to erase it waits in the queue
                raise PageFileError(LossCause.FORGOTTEN)
            self._index.add(page)

    def _is_there(self, write: _Write) -> bool:
        """Whether nothing is left to do: the same key means the same memory."""
        with self._lock:
            if write.is_cancelled:
                raise PageFileError(LossCause.FORGOTTEN)
            page = self._index.get(write.key)
            if page is None:
                return False
            self._index.use(page)
            self._index.protect(page, protected=write.is_protected)
            return True

    def _make_room(self, page: StoredPage) -> None:
        """Displaces others until `page` fits, unless it is the one to go."""
        while True:
            with self._lock:
                if not self._index.could_hold(page.num_bytes, protected=page.is_protected):
                    raise PageFileError(LossCause.DISPLACED)
                if not self._index.exceeds(page.num_bytes):
                    return
                victim = self._index.victim(
                    spares_protected=not page.is_protected, spared=(page.parent,)
                )
                if victim is None:
                    raise PageFileError(LossCause.DISPLACED)
                self._displace(victim)
            self._remove(victim.key)

    def _trim(self) -> None:
        """Displaces pages while they are over the budget. A page being read has its turn later."""
        while True:
            with self._lock:
                is_over = self._index.exceeds()
                victim = self._index.victim(spares_protected=False) if is_over else None
                if victim is None:
                    break
                self._displace(victim)
            self._remove(victim.key)
            self._notify()

    def _adopt_all(self, pages: Sequence[PageInfo], done: Future[None]) -> None:
        if not done.set_running_or_notify_cancel():
            return
        for info in pages:
            error = _attempt(partial(self._adopt, info), LossCause.READ_FAILED)
            if error is not None:
                self._report(error)
                break
        self._trim()
        self._notify()
        done.set_result(None)

    def _adopt(self, info: PageInfo) -> None:
        with self._lock:
            if self._index.get(info.key) is not None:
                return
        header = self._existing_folder.adopt(info.key)
        if header is None:
            raise PageFileError(LossCause.UNKNOWN)
        page = StoredPage(info.key, info.parent, header.file_bytes, header.is_protected)
        with self._lock:
            self._index.add(page)
            self._news.append(PageFound(info))

    def _displace(self, page: StoredPage) -> None:
        self._index.remove(page)
        self._lose(page.key, LossCause.DISPLACED)

    def _fetch(self, page: StoredPage) -> None:
        images: list[PageImage] = []
        started = time.perf_counter()
        error = _attempt(
            lambda: images.append(self._existing_folder.read(page.key)), LossCause.READ_FAILED
        )
        read_s = time.perf_counter() - started
        with self._lock:
            page.num_readers -= 1
            self._counts.reading -= 1
            if self._index.get(page.key) is not page:  # whatever was in its file then
                error = PageFileError(LossCause.FORGOTTEN)
            if error is None:
                self._index.use(page)
                self._counts.read += 1
                self._news.append(PageRead(images[0], read_s))
            else:
                self._drop(page, error.cause)
                for image in images:
                    image.zero()
            if self._index.exceeds():
                self._writer.submit(self._trim)
        self._report(error)
        self._notify()

    def _drop(self, page: StoredPage, cause: LossCause) -> None:
        """A page that couldn't be read goes, with its file unless another took its place."""
        self._counts.failed_reads += 1
        if self._index.get(page.key) is page:
            self._index.remove(page)
            self._writer.submit(partial(self._remove_unless_replaced, page.key))
        self._lose(page.key, cause)

    def _erase(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            self._report(
                _attempt(partial(self._existing_folder.erase, key), LossCause.WRITE_FAILED)
            )
            with self._lock:
                self._counts.erasing -= 1

    def _remove_unless_replaced(self, key: bytes) -> None:
        with self._lock:
            if self._index.get(key) is not None:
                return
        self._remove(key)

    def _remove(self, key: bytes) -> None:
        self._report(_attempt(partial(self._existing_folder.remove, key), LossCause.WRITE_FAILED))

    def _report(self, error: PageFileError | None) -> None:
        if error is not None:
            self._losses.report(error.cause, str(error))

    def _lose(self, key: bytes, cause: LossCause) -> None:
        self._losses.count(cause)
        self._news.append(PageLost(key))

    @property
    def _existing_folder(self) -> PageFolder:
        if self._folder is None:  # nothing is submitted then
            raise PageFileError(LossCause.UNUSABLE)
        return self._folder


def _attempt(work: Callable[[], None], otherwise: LossCause) -> PageFileError | None:
    """Does something with files; returns why it didn't work. An answer is owed in any case."""
    try:
        work()
    except PageFileError as error:
        return error
    except FileNotFoundError as error:
        return PageFileError(LossCause.MISSING, _words(error))
    except Exception as error:  # noqa: BLE001 - the page is lost, whatever it was
        return PageFileError(otherwise, _words(error))
    return None


def _words(error: BaseException) -> str:
    """What the system says, without the path."""
    return getattr(error, "strerror", None) or type(error).__name__
