"""One model between the order to load it and the end of its unloading."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from caravan_engine.control.events import LoadPhase, ModelDetails, Progress
from caravan_engine.domain.errors import (
    ModelFileInvalidError,
    ModelLoadFailedError,
    ModelTooLargeError,
)
from caravan_engine.host.broadcast import Broadcast
from caravan_engine.host.errors import LoadAbandonedError
from caravan_engine.host.models import EndpointView, LoadProgress, ModelState, ReplicaView
from caravan_engine.host.placement import MemoryBudget, MemoryNeed
from caravan_engine.host.registry import ModelFile
from caravan_engine.host.replica_set import (
    Drained,
    DrainWorker,
    ReplicaSet,
    ReplicaTools,
    ShareCores,
)
from caravan_engine.host.supervisor import (
    ReplicaState,
    ReplicaStatus,
    StartFailure,
    Supervisor,
)
from caravan_rpckit.errors import CaravanError, Reason

_log = logging.getLogger(__name__)

_MAX_PROGRESS_WATCHERS = 64
_PHASES = tuple(LoadPhase)


class DigestStore(Protocol):
    """Remembers digests; see `storage.digest_cache`."""

    def get(self, file: ModelFile) -> str | None:
        """The digest of the file as it is now, if known."""

    def put(self, file: ModelFile, digest: str) -> None:
        """Remembers it."""


@dataclass(frozen=True, slots=True)
class WorkerOrder:
    """Which worker to start."""

    file: ModelFile
    digest: str
    replica_index: int
    host_page_bytes: int = 0
    replica_count: int = 1  # workers of this model on this host

    @property
    def label(self) -> str:
        """Names the replica for people: `bundled#0`."""
        return f"{self.file.name}#{self.replica_index}"


@dataclass(frozen=True, slots=True)
class LoadTools:
    """What loading needs of the outside.

    `hash_file` and `memory_need` block and are called in threads; `memory_need` and
    `supervise` raise CaravanError for a file that can't be served.
    """

    digests: DigestStore
    hash_file: Callable[[ModelFile, Callable[[float], None], threading.Event], str]
    memory_need: Callable[[ModelFile], MemoryNeed]
    budget: MemoryBudget
    supervise: Callable[[WorkerOrder, Callable[[], None], Callable[[Progress], None]], Supervisor]
    drain: DrainWorker
    share_cores: ShareCores
    drain_timeout_s: float = 20.0  # for replicas that are too many
    can_overlap: bool = True  # whether a worker may start before the one that it replaces ends


class ServedModel:
    """Loads one model and answers for it. Belongs to the event loop.

    `on_change` is called whenever a view of the model may have changed.
    """

    def __init__(
        self,
        file: ModelFile,
        tools: LoadTools,
        on_change: Callable[[], None],
        replica_count: int = 1,
    ) -> None:
        self.file = file
        self.digest = ""
        self._tools = tools
        self._on_change = on_change
        self._progress = _progress_from(LoadProgress(LoadPhase.VERIFYING, 0.0))
        self._failure: CaravanError | None = None
        self._replica_count = replica_count
        self._fixed_bytes = 0  # of each worker
        self._page_bytes: dict[int, int] = {}  # for each worker, by its number
        self._replicas: ReplicaSet | None = None
        self._starts: dict[int, Progress] = {}  # how far each replica is
        self._abandoned = threading.Event()
        self._unloading: asyncio.Task[int] | None = None
        self._ended = False
        self._load = asyncio.create_task(self._bring_up(), name=f"load-{file.name}")
        self._load.add_done_callback(self._note_crash)

    @property
    def progress(self) -> Broadcast[LoadProgress]:
        """How the load under way, or the latest one, goes; closed at its end."""
        return self._progress

    @property
    def failure(self) -> CaravanError | None:
        """Why the model can't be served, when it can't."""
        return self._failure

    @property
    def is_unloading(self) -> bool:
        """Whether it is on its way out."""
        return self._unloading is not None

    @property
    def has_ended(self) -> bool:
        """Whether it is unloaded: nothing of it is left."""
        return self._ended

    @property
    def details(self) -> ModelDetails | None:
        """What is known of it once a worker was ready."""
        found = (status.details for status in self._statuses().values())
        return next((details for details in found if details is not None), None)

    def state(self) -> tuple[ModelState, str]:
        """Sums up, with the reason where it isn't ready."""
        statuses = self._statuses().values()
        if self._unloading is not None:
            return ModelState.DRAINING, ""
        if self._failure is not None:
            return ModelState.FAILED, self._failure.message
        if any(status.state is ReplicaState.READY for status in statuses):
            return ModelState.READY, ""
        return ModelState.LOADING, next((each.detail for each in statuses if each.detail), "")

    def replicas(self) -> tuple[ReplicaView, ...]:
        """Its workers."""
        return tuple(
            ReplicaView(index, each.state, each.restart_count, each.detail, each.process_id)
            for index, each in self._statuses().items()
            if each.state is not ReplicaState.ENDED
        )

    def endpoints(self) -> tuple[EndpointView, ...]:
        """Its workers that take requests."""
        if self.is_unloading:
            return ()
        return tuple(
            EndpointView(self.file.name, self.digest, index, each.worker_id, each.port)
            for index, each in self._statuses().items()
            if each.state is ReplicaState.READY and each.worker_id and each.port is not None
        )

    async def resize(self, replica_count: int) -> None:
        """Makes it so many workers, also of a model that is being loaded.

        Raises:
            ModelTooLargeError: there is no memory for so many; then nothing changes.
        """
        if self._replicas is None:
            self._replica_count = replica_count
            return
        need = await asyncio.to_thread(self._tools.memory_need, self.file)
        kept = {index: size for index, size in self._page_bytes.items() if index < replica_count}
        num_new = replica_count - len(kept)
        whole = MemoryNeed(
            replica_count * need.fixed_bytes + sum(kept.values()), num_new * need.host_page_bytes
        )
        granted_bytes = self._reserve(whole)
        share = granted_bytes // num_new if num_new else 0
        self._page_bytes = dict.fromkeys(range(replica_count), share) | kept
        self._replica_count = replica_count
        self._replicas.resize(replica_count)
        self._begin_progress()
        self._follow()

    async def unload(self, timeout_s: float) -> int:
        """Ends it, letting requests finish for `timeout_s`; returns how many were ended.

        Called again, it waits for the first call's work. A caller that leaves doesn't stop it.
        """
        if self._unloading is None:
            self._unloading = asyncio.create_task(
                self._take_down(timeout_s), name=f"unload-{self.file.name}"
            )
            self._on_change()
        return await asyncio.shield(self._unloading)

    async def drain(self, index: int | None, timeout_s: float, *, restart: bool) -> Drained:
        """Drains one of its workers, or all, and ends or replaces them.

        Without its last worker it is unloaded. A caller that leaves doesn't stop it.
        """
        return await asyncio.shield(asyncio.create_task(self._drain(index, timeout_s, restart)))

    async def _drain(self, index: int | None, timeout_s: float, restart: bool) -> Drained:
        replicas, present = self._replicas, self._statuses()
        chosen = tuple(present) if index is None else (index,)
        if replicas is None or self.is_unloading or not present.keys() >= set(chosen):
            return Drained()
        if restart:
            return await replicas.replace(chosen, timeout_s)
        if len(chosen) == len(present):
            return Drained(len(present), await self.unload(timeout_s))
        return await replicas.retire(chosen[0], timeout_s)

    async def _bring_up(self) -> None:
        try:
            self.file.require_sound()
            self.digest = await self._verify()
            await self._plan()
        except CaravanError as error:
            self._fail(error)
            return
        self._publish(phase=LoadPhase.LOADING, fraction=0.0)
        self._replicas = ReplicaSet(
            ReplicaTools(
                make=self._supervisor,
                lend=self._lend,
                drain=self._tools.drain,
                share_cores=self._tools.share_cores,
                drain_timeout_s=self._tools.drain_timeout_s,
                on_change=self._on_change,
            )
        )
        self._replicas.resize(self._replica_count)

    def _supervisor(self, index: int) -> Supervisor:
        order = WorkerOrder(
            self.file, self.digest, index, self._page_bytes[index], self._replica_count
        )
        self._starts.pop(index, None)
        return self._tools.supervise(order, self._follow, partial(self._report, index))

    def _lend(self, index: int) -> Callable[[], None] | None:
        """Reserves memory for a worker beside the one with the same number."""
        if not self._tools.can_overlap:
            return None
        borrower = f"{self.file.name}#{index}, the next"
        need = MemoryNeed(self._fixed_bytes + self._page_bytes[index])
        try:
            self._tools.budget.reserve(borrower, need)
        except ModelTooLargeError:
            extra = {"model": self.file.name, "needed_bytes": need.fixed_bytes}
            _log.warning("no memory to replace a worker before it ends", extra=extra)
            return None
        return partial(self._tools.budget.release, borrower)

    def _statuses(self) -> dict[int, ReplicaStatus]:
        return {} if self._replicas is None else self._replicas.statuses

    async def _verify(self) -> str:
        known = self._tools.digests.get(self.file)
        if known is not None:
            return known
        loop = asyncio.get_running_loop()

        def report(fraction: float) -> None:
            loop.call_soon_threadsafe(self._report_verifying, fraction)

        digest = await asyncio.to_thread(self._tools.hash_file, self.file, report, self._abandoned)
        self._tools.digests.put(self.file, digest)
        return digest

    def _report_verifying(self, fraction: float) -> None:
        if self._progress.value.phase is LoadPhase.VERIFYING:
            self._publish(phase=LoadPhase.VERIFYING, fraction=fraction)

    async def _plan(self) -> None:
        """Reserves memory for the workers and for what each keeps outside the cells."""
        self._publish(phase=LoadPhase.PLANNING, fraction=0.0)
        need = await asyncio.to_thread(self._tools.memory_need, self.file)
        count, budget_bytes = self._replica_count, self._tools.budget.free_bytes
        whole = MemoryNeed(count * need.fixed_bytes, count * need.host_page_bytes)
        granted_bytes = self._reserve(whole)
        self._fixed_bytes = need.fixed_bytes
        self._page_bytes = dict.fromkeys(range(count), granted_bytes // count)
        needed_bytes = whole.fixed_bytes + granted_bytes
        self._progress.publish(LoadProgress(LoadPhase.PLANNING, 1.0, needed_bytes, budget_bytes))

    def _reserve(self, need: MemoryNeed) -> int:
        """Reserves memory; returns how much of it is for pages outside the cells."""
        granted_bytes = self._tools.budget.reserve(self.file.name, need)
        if granted_bytes < need.host_page_bytes:
            extra = {"model": self.file.name, "granted_bytes": granted_bytes}
            extra["wanted_bytes"] = need.host_page_bytes
            _log.warning("memory is tight: less host memory for pages", extra=extra)
        return granted_bytes

    async def _take_down(self, timeout_s: float) -> int:
        self._abandoned.set()
        self._load.cancel()
        await asyncio.wait({self._load})
        try:
            return 0 if self._replicas is None else await self._replicas.stop(timeout_s)
        finally:
            self._note_unloaded()

    def _note_unloaded(self) -> None:
        self._tools.budget.release(self.file.name)
        if self._failure is None and not self._progress.closed:
            self._failure = LoadAbandonedError(self.file.name)
        self._progress.close()
        self._ended = True
        self._on_change()

    def _report(self, index: int, progress: Progress) -> None:
        """A replica came further; the model is as far as the last of them."""
        self._starts[index] = progress
        last = min(self._starts.values(), key=_distance)
        self._publish(phase=last.phase, fraction=last.fraction)

    def _follow(self) -> None:
        """Called at each change of a replica."""
        if self._replicas is not None:
            self._replicas.changed()
        if self._replicas is not None and not self.is_unloading:
            self._follow_states([each.status.state for each in self._replicas.wanted])
        self._on_change()

    def _follow_states(self, states: Sequence[ReplicaState]) -> None:
        is_under_way = ReplicaState.STARTING in states
        if ReplicaState.READY in states and not is_under_way:
            self._publish(phase=LoadPhase.READY, fraction=1.0)
            self._progress.close()
        elif states and set(states) == {ReplicaState.FAILED}:
            self._fail(self._load_error())
        elif ReplicaState.READY not in states:
            self._begin_progress()

    def _begin_progress(self) -> None:
        """Somebody may watch again how it becomes ready."""
        if self._progress.closed:
            self._starts.clear()
            again = replace(self._progress.value, phase=LoadPhase.LOADING, fraction=0.0)
            self._progress = _progress_from(again)

    def _load_error(self) -> CaravanError:
        wanted = () if self._replicas is None else self._replicas.wanted
        failures = (each.failure for each in wanted)
        return load_error(self.file.name, next((each for each in failures if each), None))

    def _fail(self, error: CaravanError) -> None:
        self._tools.budget.release(self.file.name)
        self._failure = error
        self._progress.close()
        _log.error("model failed", extra={"model": self.file.name, "reason": error.reason.value})
        self._on_change()

    def _note_crash(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("loading crashed", extra={"model": self.file.name}, exc_info=error)
            failure = StartFailure(Reason.INTERNAL, "unexpectedly; see the engine's log")
            self._fail(load_error(self.file.name, failure))

    def _publish(self, *, phase: LoadPhase, fraction: float) -> None:
        if self._progress.closed:
            return
        self._progress.publish(replace(self._progress.value, phase=phase, fraction=fraction))


def load_error(name: str, failure: StartFailure | None) -> CaravanError:
    """The error that clients get for a model whose workers never became ready."""
    if failure is None:
        return ModelLoadFailedError(f"model {name!r} failed", metadata={"model": name})
    message = f"model {name!r} could not be loaded: {failure.message}"
    if failure.reason is Reason.MODEL_FILE_INVALID:
        return ModelFileInvalidError(message, metadata={**failure.metadata, "model": name})
    metadata = {**failure.metadata, "model": name, "cause": failure.reason.value}
    return ModelLoadFailedError(message, metadata=metadata)


def _progress_from(first: LoadProgress) -> Broadcast[LoadProgress]:
    return Broadcast(first, max_watchers=_MAX_PROGRESS_WATCHERS)


def _distance(progress: Progress) -> tuple[int, float]:
    return _PHASES.index(progress.phase), progress.fraction
