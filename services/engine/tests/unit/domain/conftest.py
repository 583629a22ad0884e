"""A scheduler with everything around it that a real worker has, but no threads and no time."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.events import FinishReason
from caravan_engine.domain.limits import SchedulerLimits
from caravan_engine.domain.request import GenerationRequest
from caravan_engine.domain.request_queue import QueueGate, RequestQueue
from caravan_engine.domain.sampling import SamplingOptions
from caravan_engine.domain.scheduler import Scheduler
from caravan_engine.domain.sequence import Sequence
from caravan_engine.domain.step import StepPlan
from caravan_engine.domain.token_sampler import TokenSampler
from caravan_engine.runtime.step_runner import StepRunner
from caravan_rpckit.errors import CaravanError
from caravan_testkit.clock import FakeClock


@dataclass
class RecordingOutput:
    """What one sequence's reader would get."""

    num_unread: int = 0
    started: bool = False
    tokens: list[int] = field(default_factory=list)
    finished: list[FinishReason] = field(default_factory=list)
    errors: list[CaravanError] = field(default_factory=list)

    def start(self, sequence: Sequence, cached_tokens: int) -> None:
        self.started = True

    def append(self, token: int) -> str | None:
        self.tokens.append(token)
        return None

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        self.finished.append(reason)

    def fail(self, error: CaravanError) -> None:
        self.errors.append(error)

    @property
    def num_ends(self) -> int:
        return len(self.finished) + len(self.errors)

    @property
    def text(self) -> str:
        return bytes(self.tokens).decode()


@dataclass
class RecordingObserver:
    outcomes: list[str] = field(default_factory=list)

    def admitted(self, sequence: Sequence, now: float) -> None:
        pass

    def generated(self, sequence: Sequence, now: float) -> None:
        pass

    def ended(self, sequence: Sequence, outcome: str, now: float) -> None:
        self.outcomes.append(outcome)


class Rig:
    """Drives the three verbs by hand."""

    def __init__(self, backend: FakeBackend, limits: SchedulerLimits) -> None:
        self.backend = backend
        self.limits = limits
        self.clock = FakeClock()
        self.gate = QueueGate(limits.queue_capacity)
        self.observer = RecordingObserver()
        self.scheduler = Scheduler(
            limits,
            gate=self.gate,
            queue=RequestQueue(limits.queue_timeout_s),
            end_tokens=backend.vocabulary.end_tokens,
            observer=self.observer,
        )
        self._runner = StepRunner(backend)

    def submit(self, prompt: bytes = b"prompt", *, max_output: int = 8, **fields) -> Sequence:
        sampling = fields.pop("sampling", SamplingOptions(temperature=0))
        request = GenerationRequest(
            request_id="r",
            prompt=tuple(prompt),
            sampling=sampling,
            seed=fields.pop("seed", 0),
            max_output_tokens=max_output,
            **fields,
        )
        sequence = Sequence(
            request,
            max_tokens=self.limits.max_tokens(request),
            sampler=TokenSampler(
                sampling,
                seed=request.seed,
                candidates=self.backend.candidate_filter(sampling),
                history=request.prompt,
                banned=self.backend.vocabulary.end_tokens if request.ignore_eos else (),
            ),
            output=RecordingOutput(),
            arrived=self.clock(),
        )
        self.gate.enter()
        self.scheduler.submit(sequence)
        return sequence

    def step(self) -> StepPlan:
        plan = self.scheduler.schedule(self.clock())
        self.scheduler.apply(self._runner.run(plan), self.clock())
        return plan

    def run(self, max_steps: int = 1000) -> None:
        for _ in range(max_steps):
            if self.step().is_empty:
                return
        raise AssertionError(f"not done after {max_steps} steps")

    def check_integrity(self) -> None:
        """Memory of everybody who runs is exactly what was computed of their history."""
        for sequence in self.scheduler.running:
            computed = sequence.tokens[: sequence.num_computed]
            is_dropped_first = sequence.num_failures and not computed
            assert is_dropped_first or self.backend.history(sequence.seat) == computed
        assert sum(each.max_tokens for each in self.scheduler.running) <= self.limits.num_cells


@pytest.fixture
def make_rig() -> Callable[..., Rig]:
    def make(backend: FakeBackend | None = None, **limits) -> Rig:
        backend = backend or FakeBackend()
        settings = {
            "num_seats": 4,
            "num_cells": backend.num_cells,
            "context_tokens": backend.num_cells,
            "token_budget": 32,
            **limits,
        }
        return Rig(backend, SchedulerLimits(**settings))

    return make
