"""Engines with a stand-in for llama.cpp, stopped after the test."""

import asyncio
import sys
import time
from pathlib import Path

import pytest

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.domain.scheduling.rates import StepRates
from caravan_engine.runtime.engine_loop import EngineLoop, Timing
from caravan_engine.runtime.output_stream import EventPacer, LoopNotifier

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode doesn't

from engine_requests import paged_memory


@pytest.fixture
async def make_engine():
    engines, fatal = [], []

    def make(backend=None, *, clock=None, rates=None, **limits):
        backend = backend or FakeBackend()
        settings = {
            "num_seats": 4,
            "num_cells": backend.num_cells,
            "context_tokens": 1000,
            "token_budget": 64,
            **limits,
        }
        engine = EngineLoop(
            backend,
            SchedulerLimits(**settings),
            paged_memory(settings["num_seats"], backend.num_cells),
            notify=LoopNotifier(asyncio.get_running_loop()),
            on_fatal=fatal.append,
            pacer=EventPacer(max_interval_s=0),
            timing=Timing(clock or time.monotonic, rates or StepRates()),
        )
        engine.start()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        await asyncio.to_thread(engine.stop)
    assert fatal == []
