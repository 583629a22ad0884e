"""Keeps one worker running: starts it, watches it, restarts it, ends it.

Owns the life of one replica's processes. Knows nothing of models on disk, memory or other
replicas; what it starts is given to it.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from caravan_engine.control.events import ControlEvent, Failed, ModelDetails, Progress, Ready
from caravan_engine.host.restart_policy import Life, RestartPolicy
from caravan_rpckit.errors import CaravanError, Reason

_log = logging.getLogger(__name__)


class ReplicaState(StrEnum):
    """Where a replica stands."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    RESTARTING = "restarting"
    FAILED = "failed"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A replica as it is now; `worker_id`, `process_id` and `port` are those of a live process."""

    state: ReplicaState
    detail: str = ""
    restart_count: int = 0
    worker_id: str | None = None
    process_id: int | None = None
    port: int | None = None
    details: ModelDetails | None = None


@dataclass(frozen=True, slots=True)
class StartFailure:
    """Why a start never became ready; may be shown to clients."""

    reason: Reason
    message: str
    metadata: dict[str, str] = field(default_factory=dict)


class RunningWorker(Protocol):
    """A started worker process; see `WorkerProcess`."""

    @property
    def pid(self) -> int:
        """Process id."""

    def events(self) -> AsyncIterator[ControlEvent]:
        """Yields what the worker says until its output ends."""

    async def end(self, grace_s: float) -> str:
        """Ends and reaps the process, and says how it ended."""


Launch = Callable[[str], Awaitable[RunningWorker]]
"""Starts a worker under the given worker id. Raises OSError or CaravanError when it can't."""

Drain = Callable[[int, float], Awaitable[int]]
"""Drains the worker on a port within seconds; returns how many requests it had to end."""


Watch = Callable[[int], Coroutine[object, object, str]]
"""Returns when the worker on a port hangs, and completes "its worker ..."."""


@dataclass(frozen=True, slots=True)
class SupervisorTimes:
    """Bounds on what a worker may take, in seconds."""

    start_silence_s: float = 180.0
    end_grace_s: float = 5.0
    handover_s: float = 0.0  # after the time that a drained worker has


class Supervisor:
    """Supervises one replica. Belongs to one event loop; `run` is its only task.

    `on_change` is called after every change of `status`, `on_progress` with the progress of a
    start; both must not block. `watch` finds out whether a ready worker hangs; None doesn't.
    """

    def __init__(
        self,
        name: str,
        launch: Launch,
        *,
        policy: RestartPolicy,
        times: SupervisorTimes,
        on_change: Callable[[], None],
        on_progress: Callable[[Progress], None],
        watch: Watch | None = None,
    ) -> None:
        self._name = name
        self._watch = watch
        self._launch = launch
        self._policy = policy
        self._times = times
        self._on_change = on_change
        self._on_progress = on_progress
        self._status = ReplicaStatus(ReplicaState.STARTING)
        self._failure: StartFailure | None = None
        self._ready_since: float | None = None
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def status(self) -> ReplicaStatus:
        """The replica as it is now."""
        return self._status

    @property
    def failure(self) -> StartFailure | None:
        """Why the latest process ended, or None while one runs well."""
        return self._failure

    def start(self, *, restart_count: int = 0) -> None:
        """Begins to supervise, in a task of its own, where it takes the place of another one."""
        self._status = replace(self._status, restart_count=restart_count)
        self._task = asyncio.create_task(self._run(), name=f"supervisor-{self._name}")
        self._task.add_done_callback(self._note_crash)

    async def stop(self, drain: Drain, timeout_s: float) -> int:
        """Drains the worker, if one is ready, and ends it; returns how many requests were ended.

        Safe to call in every state, also twice.
        """
        self._stopping = True
        ended = await self._drain(drain, timeout_s)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._become(ReplicaStatus(ReplicaState.ENDED, restart_count=self._status.restart_count))
        return ended

    async def _drain(self, drain: Drain, timeout_s: float) -> int:
        port = self._status.port
        if self._status.state is not ReplicaState.READY or port is None:
            return 0
        self._become(replace(self._status, state=ReplicaState.DRAINING))
        try:
            async with asyncio.timeout(
                timeout_s + self._times.handover_s + self._times.end_grace_s
            ):
                return await drain(port, timeout_s)
        except (CaravanError, OSError, TimeoutError) as error:
            _log.warning("could not drain a worker", extra={"worker": self._name}, exc_info=error)
            return 0

    async def _run(self) -> None:
        while True:
            self._ready_since = None
            life = await self._one_life()
            if self._stopping:
                return
            pause_s = self._policy.pause_after(life)
            if pause_s is None:
                self._give_up()
                return
            self._become(self._without_process(ReplicaState.RESTARTING))
            _log.warning(
                "worker will be restarted",
                extra={
                    "worker": self._name,
                    "detail": self._status.detail,
                    "pause_s": pause_s,
                    "failed_starts": self._policy.num_failed_starts,
                },
            )
            await asyncio.sleep(pause_s)
            count = self._status.restart_count + 1
            self._become(replace(self._status, state=ReplicaState.STARTING, restart_count=count))

    async def _one_life(self) -> Life:
        """Runs one process from its start to its end."""
        worker_id = uuid.uuid4().hex
        self._failure = None
        try:
            worker = await self._launch(worker_id)
        except (OSError, CaravanError) as error:
            self._fail_start(_failure_of(error))
            return Life(ready_for_s=None)
        self._become(replace(self._status, worker_id=worker_id, process_id=worker.pid))
        hangs = False
        try:
            hangs = await self._follow(worker)
        finally:
            # Who hangs doesn't hear a polite word either, and its clients wait.
            how = await worker.end(0 if hangs else self._times.end_grace_s)
        self._note_end(how)
        lived = None if self._ready_since is None else time.monotonic() - self._ready_since
        return Life(ready_for_s=lived)

    async def _follow(self, worker: RunningWorker) -> bool:
        """Takes the worker's events until there are no more; returns whether it hangs."""
        events = worker.events()
        while self._ready_since is None:
            try:
                async with asyncio.timeout(self._times.start_silence_s):
                    event = await anext(events, None)
            except TimeoutError:
                message = f"it gave no sign for {self._times.start_silence_s:g} s"
                self._failure = StartFailure(Reason.MODEL_LOAD_FAILED, message)
                return False
            if event is None:
                return False
            self._take(event)
        return await self._follow_ready(events)

    async def _follow_ready(self, events: AsyncIterator[ControlEvent]) -> bool:
        async with asyncio.TaskGroup() as group:
            following = group.create_task(self._take_all(events))
            hanging = group.create_task(self._watch_progress())
            await asyncio.wait({following, hanging}, return_when=asyncio.FIRST_COMPLETED)
            hangs = not following.done()
            following.cancel()
            hanging.cancel()
        return hangs

    async def _take_all(self, events: AsyncIterator[ControlEvent]) -> None:
        async for event in events:
            self._take(event)

    async def _watch_progress(self) -> None:
        """Returns when the worker hangs."""
        port = self._status.port
        if self._watch is None or port is None:
            await asyncio.Event().wait()
            return
        how = await self._watch(port)
        self._failure = StartFailure(Reason.MODEL_LOAD_FAILED, f"its worker {how}")
        _log.error("a worker hangs", extra={"worker": self._name, "detail": how})

    def _take(self, event: ControlEvent) -> None:
        if isinstance(event, Progress):
            self._on_progress(event)
        elif isinstance(event, Failed):
            self._failure = StartFailure(event.reason, event.message, event.metadata)
        elif isinstance(event, Ready) and not self._stopping:
            self._ready_since = time.monotonic()
            self._become(
                replace(
                    self._status,
                    state=ReplicaState.READY,
                    detail="",
                    port=event.port,
                    details=event.details,
                )
            )

    def _note_end(self, how: str) -> None:
        if self._failure is None:
            self._failure = StartFailure(Reason.MODEL_LOAD_FAILED, f"its worker {how}")
        self._become(replace(self._status, detail=self._failure.message))
        _log.info(
            "worker ended",
            extra={"worker": self._name, "how": how, "detail": self._failure.message},
        )

    def _fail_start(self, failure: StartFailure) -> None:
        self._failure = failure
        self._become(replace(self._status, detail=failure.message))

    def _note_crash(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.critical("supervision crashed", extra={"worker": self._name}, exc_info=error)
            self._fail_start(StartFailure(Reason.INTERNAL, "its supervision crashed"))
            self._give_up()

    def _give_up(self) -> None:
        self._become(self._without_process(ReplicaState.FAILED))
        _log.error(
            "worker failed to start and is given up",
            extra={"worker": self._name, "detail": self._status.detail},
        )

    def _without_process(self, state: ReplicaState) -> ReplicaStatus:
        return replace(self._status, state=state, worker_id=None, process_id=None, port=None)

    def _become(self, status: ReplicaStatus) -> None:
        if status != self._status:
            self._status = status
            self._on_change()


def _failure_of(error: OSError | CaravanError) -> StartFailure:
    if isinstance(error, CaravanError):
        return StartFailure(error.reason, error.message, dict(error.metadata))
    return StartFailure(
        Reason.MODEL_LOAD_FAILED, f"its worker could not be started: {error.strerror}"
    )
