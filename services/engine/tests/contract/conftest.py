"""Pages with genuine keys, a disk tier whose news can be waited for, a ledger of real memory.

And a real backend, beside one that computes the same sequences alone.
"""

import sys
import threading
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

import pytest

from caravan_engine.backends.kv_state import parse_kv_state
from caravan_engine.domain.paging.page_image import PageImage, PageInfo, page_key, root_key
from caravan_engine.domain.ports import BackendFailureError, PageLost, PageRead
from caravan_engine.domain.step import StepPlan
from caravan_engine.storage.checksums import checksum
from caravan_engine.storage.disk_pages import DiskPages, DiskSettings
from caravan_engine.storage.page_files import PageIdentity

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode doesn't

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


@dataclass(frozen=True)
class Entry:
    """What was computed at a position: it depends on the token and everything before it."""

    token: int
    digest: bytes  # of the text up to here
    rows: bytes  # K and V of all layers


class Ledger:
    """Passes everything on to llama.cpp, and knows of each sequence what its memory must be.

    What was computed is looked at once, when it is computed; from then on each move must keep it
    to the byte, wherever its cells are.
    """

    def __init__(self, backend, num_cells) -> None:
        self.backend = backend
        self.num_cells = num_cells
        self.of = {}  # sequence -> position -> entry
        self.fails_next = False
        self._released = {}
        self._exported = {}  # image bytes by identity -> entries

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def release(self, seq_id, start=0, end=None):
        self.backend.release(seq_id, start, end)
        held = self.of.pop(seq_id, {})
        kept = {at: held[at] for at in held if at < start or (end is not None and at >= end)}
        self._released[seq_id] = held
        if kept:
            self.of[seq_id] = kept

    def share(self, source, target, start, end):
        self.backend.share(source, target, start, end)
        its = self.of.get(source, {})
        self._add(target, {at: its[at] for at in range(start, end) if at in its})

    def export_page(self, seq_id, start, end):
        data = self.backend.export_page(seq_id, start, end)
        its = self.of.get(seq_id, {})
        entries = {at: its[at] for at in range(start, end) if at in its}
        assert rows_by_position(data) == {at: entry.rows for at, entry in entries.items()}
        self._exported[bytes(data)] = entries
        return data

    def import_page(self, image, seq_id, start, end):
        done = self.backend.import_page(image, seq_id, start, end)
        if done:
            its = self._exported[bytes(image.data)]
            self._add(seq_id, {at: its[at] for at in range(start, end) if at in its})
            if image.info.key:
                tokens = tuple(its[at].token for at in sorted(its))
                assert image.info.is_genuine
                assert image.info.tokens == tokens
        return done

    def decode(self, plan):
        if self.fails_next:
            self.fails_next = False
            self.backend.decode(StepPlan((), plan.chunks[: len(plan.chunks) // 2 + 1]))
            raise BackendFailureError(-3)
        rows = self.backend.decode(plan).copy()
        for chunk in plan.chunks:
            state = rows_by_position(self.backend.export_state(chunk.seq_id))
            mine = self.of.setdefault(chunk.seq_id, {})
            assert mine.keys() == set(range(chunk.start))
            for at, token in enumerate(chunk.tokens, chunk.start):
                before = mine[at - 1].digest if at else b""
                mine[at] = Entry(token, digest(before, token), state[at])
        return rows

    def faults(self, positions):
        """The exact checks: one cell for each position, its bytes, and whose text it is."""
        faults = self.backend.check_integrity(positions)
        if faults:
            return faults
        for seq_id, held in self.of.items():
            rows = rows_by_position(self.backend.export_state(seq_id))
            wrong = [at for at in held if rows.get(at) != held[at].rows]
            if wrong or rows.keys() != held.keys():
                faults.append(f"sequence {seq_id}: {wrong} of {len(held)} have other bytes")
        return faults

    def text(self, seq_id):
        """The tokens of a sequence, if each entry belongs behind the one before it."""
        held, before, tokens = self.of.get(seq_id, {}), b"", []
        for at in range(len(held)):
            entry = held[at]
            before = digest(before, entry.token)
            assert entry.digest == before, f"sequence {seq_id}: {at} is of another text"
            tokens.append(entry.token)
        return tokens

    def entries_of(self, data):
        """What an exported page holds, if it is as it was exported."""
        return self._exported.get(bytes(data))

    def forget_all(self, num_sequences):
        for seq_id in range(num_sequences):
            self.release(seq_id)
        self._exported.clear()

    def _add(self, seq_id, entries):
        if entries:
            mine = self.of.setdefault(seq_id, {})
            assert not mine.keys() & entries.keys()
            mine.update(entries)


def digest(before, token):
    return blake2b(before + token.to_bytes(4, "little"), digest_size=8).digest()


def rows_by_position(data):
    """K and V of all layers by position, whatever the order of the cells."""
    state = parse_kv_state(bytes(data))
    layers = (*state.keys, *state.values)
    return {
        at: b"".join(rows[index].tobytes() for rows in layers)
        for index, at in enumerate(state.positions)
    }


@pytest.fixture
def make_ledger():
    return Ledger


@pytest.fixture(scope="module")
def backend(tiny_gguf):
    """Has as many seats as the checks of `solo_check` need."""
    from solo_check import load  # not at the top: few tests need llama.cpp

    with closing(load(tiny_gguf)) as backend:
        yield backend


@pytest.fixture(scope="module")
def solo(tiny_gguf):
    """Computes sequences alone, from scratch."""
    from solo_check import Solo, load

    with closing(load(tiny_gguf)) as backend:
        yield Solo(backend)


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
