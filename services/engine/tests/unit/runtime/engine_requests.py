"""What tests of the engine's loop ask for, and how they read and hold it."""

import threading
from contextlib import aclosing

from caravan_engine.domain.events import Delta
from caravan_engine.domain.model_facts import Pooling
from caravan_engine.domain.paging.kv_setup import KvOptions, make_kv_manager
from caravan_engine.domain.request import (
    EmbeddingRequest,
    GenerationRequest,
)
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.runtime.page_mover import PagedMemory
from caravan_engine.storage.checksums import checksum


class Gate:
    """Lets a test hold the decode thread inside a step."""

    def __init__(self):
        self.reached, self._open = threading.Event(), threading.Event()
        self._open.set()

    def close(self):
        self.reached.clear()
        self._open.clear()

    def open(self):
        self._open.set()

    def __call__(self, _num_tokens):
        self.reached.set()
        self._open.wait(timeout=60)


def paged_memory(num_seats, num_cells):
    options = KvOptions(
        num_seats=num_seats,
        num_cells=num_cells,
        page_size=16,
        host_budget_bytes=1 << 20,
        bytes_per_token=24,
    )
    return PagedMemory(make_kv_manager(options), checksum)


def request(prompt=b"prompt", *, max_output=8, **fields):
    settings = {"sampling": SamplingOptions(temperature=0), "seed": 0, "request_id": "r"}
    return GenerationRequest(
        prompt=tuple(prompt), max_output_tokens=max_output, **{**settings, **fields}
    )


async def collect(stream):
    async with aclosing(stream):
        return [event async for event in stream]


def text(events):
    return "".join(event.text for event in events if isinstance(event, Delta))


def embedding(text, **fields):
    return EmbeddingRequest(
        **{"request_id": "e", "prompt": tuple(text), "pooling": Pooling.MEAN, **fields}
    )
