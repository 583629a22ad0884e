"""What moving a page costs beside computing it again: the engine's own code, without services.

Usage: page_moves.py   (prints the figures)
"""

import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from caravan_engine.backends.llama_cpp import LlamaCppBackend, LlamaCppSettings
from caravan_engine.domain.paging.moves import Export, Import, Release
from caravan_engine.domain.paging.page_image import PageImage, PageInfo, page_key, root_key
from caravan_engine.domain.ports import PageRead, PageWritten
from caravan_engine.domain.step import Chunk, StepPlan
from caravan_engine.runtime.page_mover import PageMover
from caravan_engine.storage.checksums import checksum
from caravan_engine.storage.disk_pages import DiskPages, DiskSettings
from caravan_engine.storage.page_files import PageIdentity
from clients import WorkloadFailedError
from page_store import RAW_BYTES_PER_TOKEN
from report import Bound, Figure
from servers import ensure_model
from workloads import FIRST_ORDINARY_TOKEN, VOCABULARY

PAGE_SIZE, THREADS, ROUNDS = 256, 2, 7
DISK_BUDGET_BYTES = 256 * 2**20
DISK_LIMIT_S = 30.0
_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True)
class PageRound:
    """One page, computed and moved, in seconds."""

    compute_s: float
    host_s: float  # copied out with its checksum, checked and copied in
    disk_s: float  # the same, and written to a file and read from the disk between
    num_bytes: int


def page_moves() -> Iterator[Figure]:
    """Yields ratios to computing the page, medians over the rounds, and what they are made of.

    The page is the first of its text, which is the cheapest to compute.

    Raises:
        WorkloadFailedError: a page didn't come back, or not as it was.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        mover = _Pages(Path(folder))
        try:
            rounds = [mover.round(number) for number in range(ROUNDS + 1)][1:]  # one to warm up
        finally:
            mover.close()
    yield from figures(rounds)


def figures(rounds: list[PageRound]) -> Iterator[Figure]:
    """Yields what rounds say."""
    host = statistics.median(each.host_s / each.compute_s for each in rounds)
    disk = statistics.median(each.disk_s / each.compute_s for each in rounds)
    size = max(each.num_bytes for each in rounds) / PAGE_SIZE / RAW_BYTES_PER_TOKEN
    yield Figure("page to host memory and back / computing it", host, "x", Bound.AT_MOST, 1 / 100)
    yield Figure("page to disk and back / computing it", disk, "x", Bound.AT_MOST, 1 / 10)
    yield Figure("bytes of a page outside the cells / raw KV", size, "x", Bound.AT_MOST, 1.02)
    for name in ("compute_s", "host_s", "disk_s"):
        median_ms = statistics.median(getattr(each, name) for each in rounds) * 1000
        yield Figure(f"page of {PAGE_SIZE} tokens, {name.removesuffix('_s')}", median_ms, "ms")


class _Pages:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._backend = LlamaCppBackend(
            LlamaCppSettings(
                model_path=ensure_model(), num_cells=2048, num_seats=1, num_threads=THREADS
            )
        )
        self._mover = PageMover(self._backend, checksum)
        self._news = threading.Event()
        identity = PageIdentity(_DIGEST, self._backend.layout, "f16", "f16", PAGE_SIZE)
        settings = DiskSettings(directory=folder, budget_bytes=DISK_BUDGET_BYTES)
        self._disk = DiskPages(settings, identity, self._news.set)

    def round(self, seed: int) -> PageRound:
        info = _page(seed)
        self._mover.run([Release(0)])
        started = time.perf_counter()
        self._backend.decode(StepPlan(chunks=(Chunk(0, 0, info.tokens, None),)))
        compute_s = time.perf_counter() - started

        image, out_s = self._spill(info)
        host_s = out_s + self._restore(image)
        image, out_s = self._spill(info)
        read, disk_s = self._through_disk(image)
        disk_s += out_s + self._restore(read)
        if self._spill(info)[0].data != image.data:
            raise WorkloadFailedError("a page that came back isn't what it was")
        return PageRound(compute_s, host_s, disk_s, len(image.data))

    def close(self) -> None:
        self._disk.close()
        self._backend.close()

    def _spill(self, info: PageInfo) -> tuple[PageImage, float]:
        started = time.perf_counter()
        [image] = self._mover.run([Export(0, info)]).images
        return image, time.perf_counter() - started

    def _restore(self, image: PageImage) -> float:
        self._mover.run([Release(0)])
        started = time.perf_counter()
        moved = self._mover.run([Import(image, 0, image.info.start, image.info.end)])
        spent_s = time.perf_counter() - started
        if moved.failed_imports:
            raise WorkloadFailedError("a page was refused")
        return spent_s

    def _through_disk(self, image: PageImage) -> tuple[PageImage, float]:
        started = time.perf_counter()
        self._disk.write(image, protected=False)
        if not isinstance(self._next_news(), PageWritten):
            raise WorkloadFailedError("a page wasn't written")
        write_s = time.perf_counter() - started
        self._drop_file_cache()
        started = time.perf_counter()
        self._disk.read(image.info.key, priority=0)
        news = self._next_news()
        if not isinstance(news, PageRead):
            raise WorkloadFailedError("a page wasn't read")
        return news.image, write_s + time.perf_counter() - started

    def _next_news(self) -> object:
        while not (news := self._disk.poll()):
            if not self._news.wait(DISK_LIMIT_S):
                raise WorkloadFailedError(f"the disk tier said nothing for {DISK_LIMIT_S:.0f} s")
            self._news.clear()
        return news[0]

    def _drop_file_cache(self) -> None:
        """Makes the next read come from the disk, as it would after some time."""
        for path in self._folder.rglob("*"):
            if path.is_file():
                file = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(file)
                    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(file)


def _page(seed: int) -> PageInfo:
    generator = random.Random(seed)
    tokens = tuple(generator.randrange(FIRST_ORDINARY_TOKEN, VOCABULARY) for _ in range(PAGE_SIZE))
    root = root_key(_DIGEST, "bench")
    return PageInfo(root, root, page_key(root, tokens), 0, tokens)


if __name__ == "__main__":
    for figure in page_moves():
        print(f"{figure.name}: {figure.value:.4g} {figure.unit}")
