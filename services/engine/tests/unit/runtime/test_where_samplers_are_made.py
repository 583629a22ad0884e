"""A sampler's tables take milliseconds to build: never while all sequences wait for a step."""

import asyncio
import threading
from contextlib import aclosing
from dataclasses import dataclass, field

import pytest

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.paging.kv_setup import KvOptions, make_kv_manager
from caravan_engine.domain.request import GenerationRequest
from caravan_engine.domain.sampling.options import DryOptions, MirostatOptions, SamplingOptions
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.runtime.engine_loop import EngineLoop
from caravan_engine.runtime.output_stream import LoopNotifier
from caravan_engine.runtime.page_mover import PagedMemory
from caravan_engine.storage.checksums import checksum

EVERY_KIND = (
    SamplingOptions(top_k=40, top_p=0.9, repeat_penalty=1.1, logit_bias={65: 1.0}),
    SamplingOptions(typical_p=0.9, dry=DryOptions(multiplier=0.8, sequence_breakers=("\n",))),
    SamplingOptions(mirostat=MirostatOptions()),
)


@dataclass
class WatchedBackend(FakeBackend):
    """Knows which threads ask for samplers, and which one computes."""

    making: set[int] = field(default_factory=set)
    computing: set[int] = field(default_factory=set)

    def candidate_filter(self, options):
        self.making.add(threading.get_ident())
        return super().candidate_filter(options)

    def decode(self, plan):
        self.computing.add(threading.get_ident())
        return super().decode(plan)


@pytest.fixture
def backend():
    return WatchedBackend()


@pytest.fixture
async def engine(backend):
    limits = SchedulerLimits(
        num_seats=2, num_cells=backend.num_cells, context_tokens=1000, token_budget=64
    )
    engine = EngineLoop(
        backend,
        limits,
        PagedMemory(make_kv_manager(KvOptions(num_seats=2, num_cells=backend.num_cells)), checksum),
        notify=LoopNotifier(asyncio.get_running_loop()),
        on_fatal=lambda error: pytest.fail(str(error)),
    )
    engine.start()
    yield engine
    await asyncio.to_thread(engine.stop)


async def test_no_sampler_is_made_on_the_decode_thread(engine, backend):
    """Two seats for nine choices: some are admitted long after they came."""

    async def ended(stream):
        async with aclosing(stream):
            return [event async for event in stream][-1]

    requests = [
        GenerationRequest(
            prompt=tuple(b"prompt"),
            max_output_tokens=8,
            sampling=sampling,
            seed=1,
            request_id="r",
            choice_count=choice_count,
        )
        for sampling in EVERY_KIND
        for choice_count in (1, 2)
    ]
    streams = [engine.submit(each) for each in requests]
    await asyncio.gather(*(ended(stream) for stream in streams))
    assert backend.making == {threading.get_ident()}
    assert len(backend.computing) == 1
    assert backend.making.isdisjoint(backend.computing)
