"""Any sequence of orders, faults and restarts: what is read is what was written, or it is lost."""

import tempfile
from collections import Counter
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from caravan_engine.domain.ports import PageLost, PageRead, PageWritten
from caravan_engine.storage.page_files import Codec

_CHAINS, _LENGTH, _PAGE_BYTES = 3, 3, 700
INDEXES = st.integers(0, _CHAINS * _LENGTH - 1)


class DiskMachine(RuleBasedStateMachine):
    """Settles after each order, so that every answer can be told from losses by displacement."""

    def __init__(self):
        super().__init__()
        self.home = tempfile.TemporaryDirectory()
        pages = self.make_pages()
        self.images = [image for _ in range(_CHAINS) for image in pages.chain(_LENGTH)]
        self.stored = set()  # keys that were reported as written or found, and not as lost

    @initialize(codec=st.sampled_from(Codec), reads_ahead=st.booleans())
    def open(self, codec, reads_ahead):
        self.settings = {"codec": codec, "reads_ahead": reads_ahead, "num_readers": 2}
        self.budget_bytes = 5 * _PAGE_BYTES
        self.disk = self.opened()

    def opened(self):
        directory = Path(self.home.name)
        return self.open_disk(directory, budget_bytes=self.budget_bytes, **self.settings)

    def answers(self):
        self.disk.settle()
        news = self.disk.pages.poll()
        for each in news:
            match each:
                case PageWritten(key):
                    self.stored.add(key)
                case PageLost(key):
                    self.stored.discard(key)
        return news

    @rule(index=INDEXES, protected=st.booleans())
    def write(self, index, protected):
        image = self.images[index]
        self.disk.pages.write(image, protected=protected)
        news = self.answers()
        own = [each for each in news if getattr(each, "key", None) == image.info.key]
        assert len(own) == 1
        assert all(isinstance(each, PageLost) for each in news if each not in own)

    @rule(index=INDEXES, times=st.integers(1, 3))
    def read(self, index, times):
        image = self.images[index]
        was_stored = image.info.key in self.stored
        for _ in range(times):
            self.disk.pages.read(image.info.key, priority=index)
        answers = [PageRead(image) if was_stored else PageLost(image.info.key)] * times
        assert list(self.answers()) == answers

    @rule(indexes=st.lists(INDEXES, max_size=3))
    def forget(self, indexes):
        keys = [self.images[index].info.key for index in indexes]
        self.disk.pages.forget(keys)
        self.stored -= set(keys)
        assert not self.answers()

    @rule(index=INDEXES)
    def write_and_forget_at_once(self, index):
        image = self.images[index]
        self.disk.pages.write(image, protected=False)
        self.disk.pages.forget([image.info.key])
        news = Counter(getattr(each, "key", None) for each in self.answers())
        assert news[image.info.key] >= 1
        self.stored.discard(image.info.key)

    @rule(index=INDEXES, at=st.integers(0, 10_000), flip=st.integers(1, 255))
    def damage(self, index, at, flip):
        image = self.images[index]
        path = self.disk.file(image)
        if image.info.key not in self.stored:
            return
        content = bytearray(path.read_bytes())
        content[at % len(content)] ^= flip
        path.write_bytes(content)
        self.disk.pages.read(image.info.key, priority=0)
        assert list(self.answers()) == [PageLost(image.info.key)]

    @rule(num_pages=st.integers(0, 9))
    def resize(self, num_pages):
        self.budget_bytes = num_pages * _PAGE_BYTES
        self.disk.pages.resize(self.budget_bytes)
        while self.disk.pages.stats().num_bytes > self.budget_bytes:
            pass
        assert all(isinstance(each, PageLost) for each in self.answers())

    @rule()
    def restart(self):
        self.disk.close()
        self.disk = self.opened()
        found = self.disk.pages.found()
        keys = {info.key for info in found}
        assert len(keys) == len(found)
        assert keys <= self.stored
        positions = {info.key: place for place, info in enumerate(found)}
        for info in found:
            assert info.start == 0 or positions[info.parent] < positions[info.key]
        orphans = self.stored - keys
        assert all(self.before(key) not in keys and self.before(key) for key in orphans)
        self.stored = keys

    def before(self, key):
        """The page that a page continues; None for the first of a text."""
        (info,) = (image.info for image in self.images if image.info.key == key)
        return None if info.start == 0 else info.parent

    @invariant()
    def what_is_counted_is_there(self):
        if not hasattr(self, "disk"):
            return
        stats = self.disk.pages.stats()
        assert stats.num_pages == len(self.stored)
        assert stats.num_bytes <= stats.budget_bytes == self.budget_bytes

    def teardown(self):
        if hasattr(self, "disk"):
            self.disk.close()
            names = {path.name for path in self.disk.folder.iterdir()}
            assert names == {"lock", *(f"{key.hex()}.page" for key in self.stored)}
        self.home.cleanup()


def test_no_sequence_of_orders_faults_and_restarts_serves_a_wrong_page(open_disk, pages):
    parts = {"open_disk": staticmethod(open_disk), "make_pages": type(pages)}
    run_state_machine_as_test(
        type("Machine", (DiskMachine,), parts),
        settings=settings(max_examples=60, stateful_step_count=40, deadline=None),
    )
