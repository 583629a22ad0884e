"""A request that goes on here finds what another worker left of it."""

import asyncio
import threading
from concurrent.futures import Future
from contextlib import aclosing

import pytest

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.errors import DrainingError
from caravan_engine.domain.events import Delta
from caravan_engine.domain.paging.kv_setup import KvOptions, make_kv_manager
from caravan_engine.domain.request import Continuation, Emitted, GenerationRequest
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.runtime.engine_loop import EngineLoop
from caravan_engine.runtime.handover_arrival import ArrivalNumbers, HandoverArrival, take_nothing
from caravan_engine.runtime.output_stream import EventPacer, LoopNotifier
from caravan_engine.runtime.page_mover import PagedMemory
from caravan_engine.storage.checksums import checksum

PROMPT = tuple(range(40))
WAIT_S = 20


class Places:
    """Where one engine leaves pages and the other takes them."""

    def __init__(self):
        self.left = {}
        self.looked_elsewhere = []

    def leave(self, request, images):
        self.left[request.request_id] = list(images)
        done = Future()
        threading.Thread(target=done.set_result, args=(None,)).start()
        return done

    async def take(self, request):
        return self.left.pop(request.request_id, [])

    async def otherwise(self, request):
        self.looked_elsewhere.append(request.request_id)


@pytest.fixture
def places():
    return Places()


@pytest.fixture
async def make_engine():
    engines, fatal = [], []

    def make(spend=lambda _num_tokens: None):
        backend = FakeBackend(spend=spend)
        options = KvOptions(
            num_seats=4,
            num_cells=backend.num_cells,
            page_size=16,
            host_budget_bytes=1 << 20,
            bytes_per_token=24,
        )
        limits = SchedulerLimits(
            num_seats=4, num_cells=backend.num_cells, context_tokens=1000, token_budget=64
        )
        engine = EngineLoop(
            backend,
            limits,
            PagedMemory(make_kv_manager(options), checksum),
            notify=LoopNotifier(asyncio.get_running_loop()),
            on_fatal=fatal.append,
            pacer=EventPacer(max_interval_s=0),
        )
        engine.start()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        await asyncio.to_thread(engine.stop)
    assert fatal == []


def request(name="r", emitted=None):
    return GenerationRequest(
        prompt=PROMPT,
        max_output_tokens=400,
        sampling=SamplingOptions(temperature=0),
        seed=0,
        request_id=name,
        continuation=None if emitted is None else Continuation((Emitted(tuple(emitted)),)),
    )


async def read(stream, tokens, num_tokens=None):
    """Reads until it has so many tokens, or to its end."""
    async for event in stream:
        if isinstance(event, Delta):
            tokens += event.token_ids
        if num_tokens is not None and len(tokens) >= num_tokens:
            break


def num_restored(engine):
    return engine.stats().gauges.kv.moves.imported_tokens


class Steps:
    """Lets the decode thread make so many steps, and then waits until it may make all others."""

    def __init__(self, count):
        self._left = count
        self._go_on = threading.Event()

    def __call__(self, _num_tokens):
        self._left -= 1
        if self._left < 0:
            self._go_on.wait(timeout=WAIT_S)

    def go_on(self):
        self._go_on.set()


async def test_streams_end_here_and_go_on_there_from_all_that_was_computed(make_engine, places):
    steps = Steps(20)
    one, other = make_engine(steps), make_engine()
    streams = {name: (one.submit(request(name)), []) for name in ("a", "b", "c")}
    for stream, tokens in streams.values():
        await read(stream, tokens, 5)
    handing_over = asyncio.wrap_future(one.hand_over(places.leave))
    steps.go_on()
    for stream, tokens in streams.values():
        with pytest.raises(DrainingError):
            await read(stream, tokens)
    async with asyncio.timeout(WAIT_S):
        assert await handing_over == 3
    with pytest.raises(DrainingError):
        one.submit(request())

    arrival = HandoverArrival(places.take, other.take_in, places.otherwise)
    undisturbed = []
    await read(make_engine().submit(request("undisturbed")), undisturbed)
    for name, (_, tokens) in streams.items():
        wanted = num_restored(other) + len(PROMPT) + len(tokens) - 1
        going_on = request(name, tokens)
        await arrival.prepare(going_on)
        async with aclosing(other.submit(going_on)) as stream:
            await read(stream, tokens)
        assert num_restored(other) >= wanted  # pages are restored whole
        assert tokens == undisturbed
    assert places.left == {}
    assert places.looked_elsewhere == []
    assert arrival.numbers() == ArrivalNumbers(num_taken=3, num_recomputed=0)


async def test_what_nobody_left_is_looked_for_elsewhere(make_engine, places):
    arrival = HandoverArrival(places.take, make_engine().take_in, places.otherwise)
    await arrival.prepare(request("r", [1, 2]))
    assert places.looked_elsewhere == ["r"]
    assert arrival.numbers() == ArrivalNumbers(num_taken=0, num_recomputed=1)


async def test_where_nothing_is_ever_left_everything_is_looked_for_elsewhere(make_engine, places):
    arrival = HandoverArrival(take_nothing, make_engine().take_in, places.otherwise)
    await arrival.prepare(request("r", [1, 2]))
    assert places.looked_elsewhere == ["r"]
    assert arrival.numbers() == ArrivalNumbers(num_taken=0, num_recomputed=1)


async def test_a_new_request_takes_nothing(make_engine, places):
    places.left["r"] = ["an image"]
    arrival = HandoverArrival(places.take, make_engine().take_in, places.otherwise)
    await arrival.prepare(request())
    assert places.left == {"r": ["an image"]}
    assert arrival.numbers() == ArrivalNumbers(num_taken=0, num_recomputed=0)
