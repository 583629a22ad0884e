"""What tests of the disk tier expect, and a gate that holds its threads."""

import os
import threading

import pytest

from caravan_engine.domain.ports import PageLost, PageWritten
from caravan_engine.storage.page_files import Codec, PagePacker

MODES = pytest.mark.parametrize("reads_ahead", [True, False], ids=["threads", "at-once"])


def written(*images):
    return [PageWritten(image.info.key) for image in images]


def lost(*images):
    return [PageLost(image.info.key) for image in images]


def file_bytes(image, identity):
    return sum(map(len, PagePacker(identity, Codec.NONE).pack(image, protected=False)))


class Gate:
    """Holds whichever thread of a tier notifies next, after its answer is given."""

    def __init__(self, disk):
        self._arrived, self._released = threading.Event(), threading.Event()
        notify = disk.notify

        def held():
            disk.notify = notify
            self._arrived.set()
            assert self._released.wait(20)
            notify()

        disk.notify = held

    def wait(self):
        assert self._arrived.wait(20)

    def open(self):
        self._released.set()


def replace_by_pipe(path, pages):
    path.unlink()
    os.mkfifo(path)
