"""Measures what a page costs on its way to disk and back.

    python services/engine/benchmarks/page_files.py [--megabytes 3] [--rounds 40] [--directory .]

Milliseconds from the order to the answer, the median of all rounds and the slowest of ten: written,
read while the system still has it in memory, and read from the medium. The page is filled with
normally distributed f16 numbers, which hardly compress; what a model computes does a little.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from caravan_engine.domain.paging.page_image import PageImage, PageInfo, page_key, root_key
from caravan_engine.domain.ports import PageRead, PageWritten
from caravan_engine.storage.checksums import checksum
from caravan_engine.storage.disk_pages import DiskPages, DiskSettings
from caravan_engine.storage.page_files import Codec, PageIdentity

_PAGE_SIZE = 256


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--directory", type=Path, default=None)
    arguments = parser.parse_args()
    images = [_image(index, arguments.megabytes) for index in range(arguments.rounds)]
    print("| codec | written | read, cached | read from the medium | stored of the memory |")
    print("| --- | --- | --- | --- | --- |")
    for codec in Codec:
        with tempfile.TemporaryDirectory(dir=arguments.directory) as folder:
            print(f"| {codec.name.lower()} | {_row(Path(folder), codec, images)} |")


def _image(index: int, megabytes: float) -> PageImage:
    rng = np.random.default_rng(index)
    data = rng.normal(0, 1, int(megabytes * 2**20 / 2)).astype(np.float16).tobytes()
    root = root_key("benchmark", "default")
    tokens = (index, *range(1, _PAGE_SIZE))
    info = PageInfo(root, root, page_key(root, tokens), 0, tokens)
    return PageImage(info, data, checksum(data))


def _row(folder: Path, codec: Codec, images: list[PageImage]) -> str:
    answered = threading.Event()
    disk = DiskPages(
        DiskSettings(directory=folder, budget_bytes=2**40, codec=codec),
        PageIdentity("benchmark", b"", "f16", "f16", _PAGE_SIZE),
        answered.set,
    )

    def timed(order: Callable[[], None], expected: type) -> float:
        answered.clear()
        start = time.perf_counter()
        order()
        answered.wait()
        elapsed_s = time.perf_counter() - start
        (news,) = disk.poll()
        if not isinstance(news, expected):
            raise SystemExit(f"the page was lost: {disk.stats().lost}")
        return elapsed_s * 1000

    def write(image: PageImage) -> float:
        return timed(lambda: disk.write(image, protected=False), PageWritten)

    def read(image: PageImage) -> float:
        return timed(lambda: disk.read(image.info.key, priority=0), PageRead)

    writes = [write(image) for image in images]
    warm = [read(image) for image in images]
    _drop_from_memory(folder)
    cold = [read(image) for image in images]
    share = disk.stats().num_bytes / sum(len(image.data) for image in images)
    disk.close()
    return " | ".join([*map(_summary, (writes, warm, cold)), f"{share:.2f}"])


def _drop_from_memory(folder: Path) -> None:
    for path in folder.rglob("*.page"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _summary(times_ms: list[float]) -> str:
    slow_ms = sorted(times_ms)[-max(1, len(times_ms) // 10)]
    return f"{statistics.median(times_ms):.1f} ({slow_ms:.1f}) ms"


if __name__ == "__main__":
    main()
