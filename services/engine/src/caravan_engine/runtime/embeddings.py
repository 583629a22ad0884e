"""Carries vectors from the decode thread to whoever waits for them."""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from caravan_engine.domain.errors import DecodeFailedError
from caravan_engine.domain.events import FinishReason, Timings
from caravan_engine.domain.pooling import Pooler
from caravan_engine.domain.request import EmbeddingRequest
from caravan_engine.domain.sampling.logprobs import Logprobs
from caravan_engine.domain.sequence import Sequence, SequenceGroup
from caravan_rpckit.errors import CaravanError


@dataclass(frozen=True, slots=True)
class EmbeddedInput:
    """The vector of one input, of length 1: # (embedding size,)."""

    vector: npt.NDArray[np.float32]
    input_tokens: int
    timings: Timings


@dataclass(frozen=True, slots=True)
class EmbeddingJob:
    """An input on its way; `result` raises what went wrong. `cancel` may be called at any time."""

    result: "Future[EmbeddedInput]"
    cancel: Callable[[], None]


class Embedder(Protocol):
    """What takes inputs; see `EngineLoop`."""

    def embed(self, request: EmbeddingRequest) -> EmbeddingJob:
        """Queues an input."""
        ...


async def embed_all(engine: Embedder, requests: Iterable[EmbeddingRequest]) -> list[EmbeddedInput]:
    """Embeds several inputs, all or none: whatever ends one early ends the others.

    Raises:
        CaravanError: what `engine.embed` refused, or the first failure.
    """
    jobs: list[EmbeddingJob] = []
    try:
        for request in requests:
            jobs.append(engine.embed(request))
        return await asyncio.gather(*(asyncio.wrap_future(job.result) for job in jobs))
    finally:
        for job in jobs:
            job.cancel()


class VectorWriter:
    """Implements `domain.ports.GroupOutput` and `SequenceOutput`; owned by the decode thread.

    Of a sequence without text there is nothing to say before its request is complete.
    """

    num_unread = 0

    def __init__(self, pooler: Pooler, clock: Callable[[], float]) -> None:
        self._pooler = pooler
        self._clock = clock
        self.result: Future[EmbeddedInput] = Future()
        self.result.set_running_or_notify_cancel()  # only the decode thread settles it

    def start(self, group: SequenceGroup, cached_tokens: int) -> None:
        """Nobody has to know."""

    def append(self, token: int, logprobs: Logprobs | None) -> str | None:
        """There are no tokens."""

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """There is no text."""

    def complete(self, group: SequenceGroup) -> None:
        """Hands the vector over."""
        vector = self._pooler.vector()
        if vector is None:
            self.fail(DecodeFailedError())
            return
        times = group.times
        started = times.arrived if times.started is None else times.started
        timings = Timings(started - times.arrived, self._clock() - started, 0.0)
        self.result.set_result(EmbeddedInput(vector, group.num_prompt_tokens, timings))

    def fail(self, error: CaravanError) -> None:
        """Hands the error over."""
        self.result.set_exception(error)
