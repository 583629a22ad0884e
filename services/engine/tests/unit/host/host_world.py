"""Models on a pretended disk and workers that do as told, for tests of the host."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

from caravan_engine.control.events import (
    ControlEvent,
    ModelDetails,
    Ready,
)
from caravan_engine.host.errors import (
    LoadAbandonedError,
)
from caravan_engine.host.model_manager import ModelManager
from caravan_engine.host.placement import MemoryBudget, MemoryNeed
from caravan_engine.host.registry import ModelFile, Registry
from caravan_engine.host.restart_policy import RestartPolicy, RestartRules
from caravan_engine.host.served_model import LoadTools, WorkerOrder
from caravan_engine.host.supervisor import Supervisor, SupervisorTimes

DETAILS = ModelDetails(
    architecture="llama",
    description="fake",
    context_tokens=64,
    cell_count=128,
    vocabulary_size=10,
    layer_count=2,
    has_chat_template=False,
)


class FakeWorker:
    """A worker whose events a test sends."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.sent: asyncio.Queue[ControlEvent | None] = asyncio.Queue()
        self.ended = False

    async def events(self) -> AsyncIterator[ControlEvent]:
        while (event := await self.sent.get()) is not None:
            yield event

    async def end(self, grace_s: float) -> str:
        self.ended = True
        return "ended"


class Digests:
    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def get(self, file):
        return self.known.get(file.name)

    def put(self, file, digest):
        self.known[file.name] = digest


class World:
    """Models on a pretended disk, workers that do as told."""

    def __init__(self, *, can_overlap: bool = True) -> None:
        self.files = {name: ModelFile(name, Path(f"/models/{name}.gguf"), 10) for name in "abc"}
        self.files["broken"] = ModelFile("broken", Path("/x"), fault="does not exist")
        self.needs = {"a": MemoryNeed(60), "b": MemoryNeed(60), "c": MemoryNeed(10, 1000)}
        self.orders: list[WorkerOrder] = []
        self.workers: list[FakeWorker] = []
        self.worker_started = asyncio.Event()
        self.drained: list[float] = []
        self.handed_over: list[int] = []  # ports of the workers that were to
        self.shared: list[tuple[int, bool]] = []  # which workers left cores to others
        self.drain_gate = asyncio.Event()
        self.drain_gate.set()
        self.hash_gate = threading.Event()
        self.hash_gate.set()
        self.budget = MemoryBudget(100)
        registry = Registry([lambda: self.files.values()], {"first": Path("/models/a.gguf")})
        tools = LoadTools(
            digests=Digests(),
            hash_file=self._hash,
            memory_need=lambda file: self.needs[file.name],
            budget=self.budget,
            supervise=self._supervise,
            drain=self._drain,
            share_cores=self._share_cores,
            can_overlap=can_overlap,
        )
        self.manager = ModelManager(registry, tools, max_watchers=8)

    def _hash(self, file, on_progress, abandoned):
        on_progress(0.5)
        while not self.hash_gate.wait(0.01):
            if abandoned.is_set():
                raise LoadAbandonedError(file.name)
        return "d" * 64

    def _supervise(self, order, on_change, on_progress):
        self.orders.append(order)
        return Supervisor(
            order.label,
            self._launch,
            policy=RestartPolicy(RestartRules(initial_backoff_s=0.001)),
            times=SupervisorTimes(),
            on_change=on_change,
            on_progress=on_progress,
        )

    async def _launch(self, _worker_id):
        worker = FakeWorker(len(self.workers) + 100)
        self.workers.append(worker)
        self.worker_started.set()
        return worker

    async def _drain(self, port, timeout_s, *, hands_over):
        self.drained.append(timeout_s)
        self.handed_over += [port] if hands_over else []
        await self.drain_gate.wait()
        return 2

    async def _share_cores(self, port, *, shares):
        self.shared.append((port, shares))

    async def worker(self, index: int) -> FakeWorker:
        async with asyncio.timeout(10):
            while len(self.workers) <= index:
                self.worker_started.clear()
                await self.worker_started.wait()
        return self.workers[index]

    async def load(self, name: str) -> None:
        index = len(self.workers)
        task = asyncio.create_task(self.collect(name))
        (await self.worker(index)).sent.put_nowait(Ready(port=7000 + index, details=DETAILS))
        await task

    async def collect(self, name: str, replica_count: int | None = None):
        return [progress async for _, progress in self.manager.load(name, replica_count)]

    async def ready(self, index: int) -> FakeWorker:
        worker = await self.worker(index)
        worker.sent.put_nowait(Ready(port=7000 + index, details=DETAILS))
        return worker

    async def until(self, condition):
        async with asyncio.timeout(10):
            async for picture in self.manager.picture.watch():
                if condition(picture):
                    return picture
        raise AssertionError("the picture ended")

    def state(self, name: str):
        return self.manager.view(name).state
