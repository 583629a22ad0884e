"""Pages with genuine keys, and a disk tier whose news can be waited for."""

import threading
from collections import Counter
from itertools import pairwise

import pytest

from caravan_engine.domain.page_image import PageImage, PageInfo, page_key, root_key
from caravan_engine.domain.ports import PageLost, PageRead
from caravan_engine.storage.checksums import checksum
from caravan_engine.storage.disk_pages import DiskPages, DiskSettings
from caravan_engine.storage.page_files import PageIdentity

DIGEST = "d" * 64
PAGE_SIZE = 16


class Pages:
    """Makes pages; each text is another unless it is named."""

    identity = PageIdentity(DIGEST, b"2 layers of 64 bytes", "f16", "q8_0", PAGE_SIZE)

    def __init__(self) -> None:
        self._num_texts = 0

    def image(self, tokens=None, data=None, *, after=None, tenant="default"):
        if tokens is None:
            self._num_texts += 1
            tokens = (self._num_texts, *range(1, PAGE_SIZE))
        root = root_key(DIGEST, tenant)
        parent = root if after is None else after.info.key
        start = 0 if after is None else after.info.end
        info = PageInfo(root, parent, page_key(parent, tokens), start, tuple(tokens))
        data = (bytes(info.key) * 20)[:300] if data is None else data
        return PageImage(info, data, checksum(data))

    def chain(self, length):
        images = [self.image()]
        while len(images) < length:
            images.append(self.image(after=images[-1]))
        assert all(after.info.parent == before.info.key for before, after in pairwise(images))
        return images


class Disk:
    """A tier under test: collects its news, and waits for as many as are due."""

    def __init__(self, directory, *, identity=Pages.identity, budget_bytes=10**9, **settings):
        self._changed = threading.Condition()
        self.directory = directory
        self.folder = directory / identity.folder_name
        self.pages = DiskPages(
            DiskSettings(directory=directory, budget_bytes=budget_bytes, **settings),
            identity,
            lambda: self.notify(),
        )

    def notify(self):
        """Called by the tier's threads; a test may put something in its place."""
        with self._changed:
            self._changed.notify_all()

    def news(self, count):
        """The next `count` pieces of news, in order."""
        news = []
        with self._changed:
            news += self.pages.poll()
            while len(news) < count:
                assert self._changed.wait(20), f"only {news}"
                news += self.pages.poll()
        assert len(news) == count
        return news

    def settle(self):
        """Waits until everything that was asked for is done."""
        while (stats := self.pages.stats()).num_writing + stats.num_reading + stats.num_erasing:
            with self._changed:
                self._changed.wait(0.01)

    def write(self, *images, protected=False):
        for image in images:
            self.pages.write(image, protected=protected)
        return self.news(len(images))

    def read(self, *keys):
        for key in keys:
            self.pages.read(key, priority=0)
        return self.news(len(keys))

    def holds(self, *images):
        """Which of the images can be read."""
        answers = self.read(*(image.info.key for image in images))
        read = Counter(news.image.info.key for news in answers if isinstance(news, PageRead))
        lost = Counter(news.key for news in answers if isinstance(news, PageLost))
        assert sum((read + lost).values()) == len(images)
        return [image for image in images if read[image.info.key]]

    def file(self, image):
        return self.folder / f"{image.info.key.hex()}.page"

    def close(self):
        self.pages.close()
        return self.pages.poll()


@pytest.fixture
def pages():
    return Pages()


@pytest.fixture
def open_disk(tmp_path):
    """Opens tiers in one directory, and ends those that the test leaves open."""
    opened = []

    def open_disk(directory=tmp_path / "pages", **settings):
        opened.append(Disk(directory, **settings))
        return opened[-1]

    yield open_disk
    for disk in opened:
        disk.pages.close()
    assert not threads_of_tier()


def threads_of_tier():
    return [thread for thread in threading.enumerate() if thread.name.startswith("page-")]
