"""A scheduler with everything around it that a real worker has, but no threads and no time."""

import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from caravan_engine.backends.fake import FakeBackend, letters
from caravan_engine.domain.events import FinishReason
from caravan_engine.domain.paging.kv_manager import KvManager
from caravan_engine.domain.paging.kv_setup import KvOptions, make_kv_manager
from caravan_engine.domain.paging.page_image import PageImage
from caravan_engine.domain.ports import DiskNews, PageDisk, PageLost, PageRead, PageWritten
from caravan_engine.domain.request import GenerationRequest
from caravan_engine.domain.sampling.logprobs import Logprobs
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.sampling.token_sampler import TokenSampler
from caravan_engine.domain.scheduling.admission import Admission
from caravan_engine.domain.scheduling.batch_policy import BatchPolicy
from caravan_engine.domain.scheduling.expected_output import ExpectedOutput
from caravan_engine.domain.scheduling.fairness import ClientWeights
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.domain.scheduling.queue_gate import QueueGate
from caravan_engine.domain.scheduling.request_queue import RequestQueue
from caravan_engine.domain.scheduling.scheduler import Scheduler
from caravan_engine.domain.sequence import Sequence, SequenceGroup
from caravan_engine.domain.step import StepPlan
from caravan_engine.runtime.step_runner import StepRunner
from caravan_rpckit.errors import CaravanError
from caravan_testkit.clock import FakeClock


@dataclass
class RecordingOutput:
    """What one sequence's reader would get; the first one's also gets what all have in common."""

    num_unread: int = 0
    started: bool = False
    tokens: list[int] = field(default_factory=list)
    logprobs: list[Logprobs | None] = field(default_factory=list)
    finished: list[FinishReason] = field(default_factory=list)
    errors: list[CaravanError] = field(default_factory=list)
    num_completed: int = 0

    def start(self, group: SequenceGroup, cached_tokens: int) -> None:
        self.started = True

    def append(self, token: int, logprobs: Logprobs | None) -> str | None:
        self.tokens.append(token)
        self.logprobs.append(logprobs)
        return None

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        self.finished.append(reason)

    def complete(self, group: SequenceGroup) -> None:
        assert not group.live
        self.num_completed += 1

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
    num_parkings: int = 0

    def admitted(self, group: SequenceGroup, now: float) -> None:
        pass

    def started(self, group: SequenceGroup, now: float) -> None:
        pass

    def parked(self, group: SequenceGroup, now: float) -> None:
        self.num_parkings += 1

    def generated(self, sequence: Sequence, now: float) -> None:
        pass

    def ended(self, group: SequenceGroup, outcome: str, now: float) -> None:
        self.outcomes.append(outcome)


@dataclass
class _Write:
    image: PageImage
    is_cancelled: bool = False


class MemoryDisk:
    """A disk tier without a disk: it works, loses and damages when the test says so."""

    def __init__(self, budget_bytes: int = 1 << 20) -> None:
        self.budget_bytes = budget_bytes
        self.pages: dict[bytes, PageImage] = {}  # the oldest first
        self.damages_reads = False
        self.read_orders: list[tuple[bytes, int]] = []  # key and priority
        self._writes: deque[_Write] = deque()
        self._reads: deque[tuple[bytes, PageImage]] = deque()
        self._news: list[DiskNews] = []

    def write(self, image: PageImage, *, protected: bool, kept: bool = False) -> None:
        del protected, kept
        self._writes.append(_Write(image))

    def read(self, key: bytes, *, priority: int) -> None:
        self.read_orders.append((key, priority))
        if key in self.pages:
            self._reads.append((key, self.pages[key]))
        else:
            self._news.append(PageLost(key))

    def forget(self, keys) -> None:
        for key in keys:
            self.pages.pop(key, None)
            for write in self._writes:
                write.is_cancelled |= write.image.info.key == key

    def resize(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._trim()

    def poll(self) -> list[DiskNews]:
        news, self._news = self._news, []
        return news

    @property
    def num_orders(self) -> int:
        return len(self._writes) + len(self._reads)

    @property
    def num_bytes(self) -> int:
        return sum(len(image.data) for image in self.pages.values())

    def write_some(self, count: int = 1 << 20) -> None:
        for _ in range(min(count, len(self._writes))):
            self._store(self._writes.popleft())
            self._trim()

    def read_some(self, count: int = 1 << 20) -> list[PageImage]:
        count = min(count, len(self._reads))
        images = [self._fetch(*self._reads.popleft()) for _ in range(count)]
        return [image for image in images if image]

    def lose(self, key: bytes) -> None:
        """Like a page that others displace, or whose file somebody removes."""
        if self.pages.pop(key, None):
            self._news.append(PageLost(key))

    def _store(self, write: _Write) -> None:
        key = write.image.info.key
        if write.is_cancelled or len(write.image.data) > self.budget_bytes:
            self._news.append(PageLost(key))
        else:
            data = bytes(write.image.data)  # of its own: what is zeroed in memory stays here
            self.pages.setdefault(key, replace(write.image, data=data))
            self._news.append(PageWritten(key))

    def _fetch(self, key: bytes, image: PageImage) -> PageImage | None:
        if self.pages.get(key) is not image:
            self._news.append(PageLost(key))
            return None
        data = bytearray(image.data)
        data[-1] ^= self.damages_reads
        read = replace(image, data=memoryview(data))
        self._news.append(PageRead(read))
        return read

    def _trim(self) -> None:
        while self.num_bytes > self.budget_bytes:
            self.lose(next(iter(self.pages)))


class Rig:
    """Drives the three verbs by hand."""

    def __init__(
        self,
        backend: FakeBackend,
        limits: SchedulerLimits,
        kv: KvManager,
        *,
        batch_policy: BatchPolicy | None = None,
    ) -> None:
        self.backend = backend
        self.limits = limits
        self.kv = kv
        self.clock = FakeClock()
        weights = ClientWeights(limits.client_weights)
        self.gate = QueueGate(limits.queue_capacity, weights)
        self.observer = RecordingObserver()
        self.outputs = ExpectedOutput()
        self.scheduler = Scheduler(
            limits,
            admission=Admission(limits, kv, self.outputs),
            gate=self.gate,
            queue=RequestQueue(
                limits.queue_timeout_s,
                ageing_s_per_level=limits.ageing_s_per_level,
                weights=weights,
            ),
            end_tokens=backend.vocabulary.end_tokens,
            observer=self.observer,
            batch_policy=batch_policy,
        )
        self.plans: list[StepPlan] = []
        self._displaced: list[SequenceGroup] = []
        self._runner = StepRunner(backend, zlib.crc32)

    def submit(self, prompt: bytes = b"prompt", **fields) -> Sequence:
        """Submits a request of one choice and returns its sequence."""
        return self.submit_group(prompt, **fields).sequences[0]

    def submit_group(self, prompt: bytes = b"prompt", **fields) -> SequenceGroup:
        group = self.make_group(prompt, **fields)
        displaced = self.gate.enter(group)
        self.scheduler.submit(group)
        if displaced is not None:
            self._displaced.append(displaced)
        return group

    def make_group(
        self, prompt: bytes = b"prompt", *, max_output: int = 8, **fields
    ) -> SequenceGroup:
        """Makes a request that nobody has heard of yet."""
        sampling = fields.pop("sampling", SamplingOptions(temperature=0))
        request = GenerationRequest(
            request_id="r",
            prompt=tuple(prompt),
            sampling=sampling,
            seed=fields.pop("seed", 0),
            max_output_tokens=max_output,
            **fields,
        )
        max_tokens = self.limits.max_tokens(request)
        sequences = [
            Sequence(
                request,
                max_tokens=max_tokens,
                work=self._sampler(request, index),
                output=RecordingOutput(),
                choice_index=index,
                num_top_logprobs=request.num_top_logprobs,
            )
            for index in range(request.choice_count)
        ]
        return SequenceGroup(request, sequences, output=sequences[0].output, arrived=self.clock())

    def _sampler(self, request: GenerationRequest, choice_index: int) -> TokenSampler:
        return TokenSampler(
            request.sampling,
            seed=request.seed,
            choice_index=choice_index,
            candidates=self.backend.candidate_filter(request.sampling),
            history=request.prompt,
            banned=self.backend.vocabulary.end_tokens if request.ignore_eos else (),
        )

    def step(self) -> StepPlan:
        plan = self.scheduler.schedule(self.clock())
        self.plans.append(plan)
        self.scheduler.apply(self._runner.run(plan), self.clock())
        self.end_displaced()
        return plan

    def end_displaced(self) -> None:
        """Does what is posted meanwhile: ends who gave way, unless it was seated or ended first."""
        for each in self._displaced:
            if self.gate.is_displaced(each):
                self.scheduler.end(each, self.gate.refusal(), self.clock())
        self._displaced.clear()

    def carry_out_moves(self) -> None:
        """Does at once what the next step would do first, and what follows from that."""
        while moves := self.kv.take_moves():
            plan = StepPlan(moves)
            self.plans.append(plan)
            self.kv.moved(self._runner.run(plan))

    @property
    def num_computed(self) -> int:
        """Tokens that the backend computed, those computed again too."""
        return sum(plan.num_tokens for plan in self.backend.plans)

    def moves(self, kind: type) -> list:
        """The moves of a kind that were ordered so far."""
        return [move for plan in self.plans for move in plan.moves if isinstance(move, kind)]

    def run(self, max_steps: int = 1000) -> None:
        for _ in range(max_steps):
            if self.step().is_empty:
                return
        raise AssertionError(f"not done after {max_steps} steps")

    def complete(self, *sequences: Sequence) -> None:
        """Runs until nothing is to be done; sequences then have the tokens of undisturbed ones."""
        for _ in range(2000):
            if self.step().is_empty:
                break
            self.check_integrity()
        for sequence in sequences:
            history = list(sequence.request.prompt)
            while len(history) < sequence.max_tokens:
                history.append(letters(history))
            wanted = history[len(sequence.request.prompt) :]
            assert sequence.output.tokens == wanted, sequence.output.errors

    def check_integrity(self) -> None:
        """Memory of everybody who runs is exactly what was computed of their history."""
        for sequence in self.scheduler.running:
            computed = sequence.tokens[: sequence.num_computed]
            begins_again = not computed  # then the next moves release what is there
            assert begins_again or self.backend.history(sequence.seat) == computed
        self.carry_out_moves()
        if not any(sequence.num_failures for sequence in self.scheduler.running):
            assert self.backend.check_integrity(self.kv.cells.positions()) == []
            assert self.backend.num_used_cells == self.kv.cells.num_used
        assert self.backend.num_used_cells <= self.limits.num_cells


@pytest.fixture
def make_disk() -> Callable[..., MemoryDisk]:
    return MemoryDisk


@pytest.fixture
def make_rig() -> Callable[..., Rig]:
    def make(
        backend: FakeBackend | None = None,
        *,
        disk: PageDisk | None = None,
        kv=None,
        batch_policy: BatchPolicy | None = None,
        **limits,
    ) -> Rig:
        backend = backend or FakeBackend()
        num_cells = backend.num_cells
        settings = {
            "num_seats": 4,
            "num_cells": num_cells,
            "context_tokens": num_cells,
            "token_budget": 32,
            **limits,
        }
        options = {
            "num_seats": settings["num_seats"],
            "num_cells": num_cells,
            "page_size": 16,
            "host_budget_bytes": 1 << 20,
            "bytes_per_token": 24,
            "learns_costs": False,
            **(kv or {}),
        }
        backend.num_seats = settings["num_seats"]
        manager = make_kv_manager(KvOptions(**options), disk)
        return Rig(backend, SchedulerLimits(**settings), manager, batch_policy=batch_policy)

    return make
