"""What is kept of conversations that are likely to go on, under pressure by other texts."""

from collections import deque
from itertools import islice

import pytest

from caravan_engine.domain.ports import PageRead, PageWritten
from caravan_engine.domain.request import ClientKey

TEXT = bytes(range(40))
BUDGET = {"host_budget_bytes": 24 * 100}  # two texts and a half


class FakeDisk:
    """A disk that takes everything and never waits."""

    def __init__(self):
        self.images = {}
        self.protected = set()
        self._news = deque()

    def write(self, image, *, protected, kept=False):
        self.images[image.info.key] = image
        self.protected |= {image.info.key} if protected else set()
        self._news.append(PageWritten(image.info.key))

    def read(self, key, *, priority):
        self._news.append(PageRead(self.images[key]))

    def forget(self, keys):
        for key in keys:
            del self.images[key]

    def resize(self, budget_bytes):
        raise NotImplementedError

    def poll(self):
        return [self._news.popleft() for _ in range(len(self._news))]


def complete(rig, prompt, **fields):
    """Runs a request and returns how many tokens of its prompt it found."""
    sequence = rig.submit(prompt, max_output=2, **fields)
    for _ in islice(iter(rig.step, None), 100):
        rig.check_integrity()
        if sequence.output.finished:
            return sequence.group.cached_tokens
    raise AssertionError("no end")


def press(rig, num_texts=8):
    for number in range(num_texts):
        complete(rig, bytes([100 + number] * 40))


@pytest.mark.parametrize(("is_of_session", "num_cached"), [(True, 41), (False, 0)])
def test_what_is_of_a_conversation_stays_in_memory_while_others_are_dropped(
    make_rig, is_of_session, num_cached
):
    rig = make_rig(kv=BUDGET)
    complete(rig, TEXT, is_of_session=is_of_session)
    press(rig)
    answered = TEXT + bytes([rig.backend.next_token(list(TEXT))])
    assert complete(rig, answered + b"and then?") == num_cached


def test_where_there_is_a_disk_conversations_go_to_it_first_and_leave_it_last(make_rig):
    disk = FakeDisk()
    rig = make_rig(kv=BUDGET, disk=disk)
    complete(rig, b"x" * 40)
    complete(rig, TEXT, is_of_session=True)
    complete(rig, b"y" * 40)
    of_session = {node.info.key for node in rig.kv.store.tree if node.is_of_session}
    assert disk.images.keys() == disk.protected
    assert disk.protected <= of_session
    assert complete(rig, TEXT + b"!") == 40


def test_only_its_tenant_finds_a_conversation(make_rig):
    rig = make_rig(kv=BUDGET)
    complete(rig, TEXT, is_of_session=True, client=ClientKey("acme"))
    assert complete(rig, TEXT, is_of_session=True, client=ClientKey("other")) == 0
    assert complete(rig, TEXT, client=ClientKey("acme")) == 39


def test_of_conversations_the_oldest_goes(make_rig):
    rig = make_rig(kv=BUDGET)
    texts = [bytes([number] * 40) for number in range(6)]
    for text in texts:
        complete(rig, text, is_of_session=True)
    assert complete(rig, texts[-1]) == 39
    assert complete(rig, texts[0]) == 0


def test_what_memory_cannot_take_of_a_long_text_on_disk_is_computed(make_rig):
    rig = make_rig(kv={"host_budget_bytes": 24 * 50}, disk=FakeDisk())
    long = bytes(range(80))
    complete(rig, long)
    complete(rig, b"x" * 48)
    found = complete(rig, long + b"!")
    assert 0 < found <= 50


@pytest.mark.parametrize("num_parkings", [1, 2])
def test_pages_are_held_no_longer_than_a_parked_request_needs_them(make_rig, num_parkings):
    rig = make_rig(num_seats=1)
    low = rig.submit(TEXT, max_output=60, priority=1)
    for number in range(num_parkings):
        for _ in range(4):
            rig.step()
        complete(rig, bytes([200 + number] * 8), priority=50)
    rig.run()
    assert low.group.num_parkings == num_parkings
    assert not any(node.num_pins for node in rig.kv.store.tree)
