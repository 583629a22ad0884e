"""The decode thread: takes commands, and between them schedules, runs and applies steps."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TypeVar

from caravan_engine.domain.errors import DrainingError
from caravan_engine.domain.events import Delta
from caravan_engine.domain.paging.page_image import PageImage
from caravan_engine.domain.paging.prefix_tree import Tokens
from caravan_engine.domain.paging.pruning import prune
from caravan_engine.domain.paging.stored_texts import stored_lengths
from caravan_engine.domain.pooling import Pooler
from caravan_engine.domain.ports import Backend
from caravan_engine.domain.request import EmbeddingRequest, GenerationRequest
from caravan_engine.domain.scheduling.admission import Admission
from caravan_engine.domain.scheduling.batch_policy import make_batch_policy
from caravan_engine.domain.scheduling.deadline_guard import DeadlineGuard
from caravan_engine.domain.scheduling.expected_output import ExpectedOutput
from caravan_engine.domain.scheduling.fairness import ClientWeights
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.domain.scheduling.queue_gate import QueueGate
from caravan_engine.domain.scheduling.request_queue import RequestQueue
from caravan_engine.domain.scheduling.scheduler import Scheduler
from caravan_engine.domain.sequence import Sequence as TokenSequence
from caravan_engine.domain.sequence import SequenceGroup
from caravan_engine.domain.step import StepPlan
from caravan_engine.runtime.embeddings import EmbeddingJob, VectorWriter
from caravan_engine.runtime.entrance import Entrance
from caravan_engine.runtime.handing_over import HandingOver, Leave
from caravan_engine.runtime.observers import Observers
from caravan_engine.runtime.output_stream import EventPacer, OutputStream
from caravan_engine.runtime.page_mover import PagedMemory
from caravan_engine.runtime.request_opening import RequestOpening
from caravan_engine.runtime.resumption import retell
from caravan_engine.runtime.stats import EngineStats, Gauges, StatsSnapshot
from caravan_engine.runtime.step_runner import StepRunner
from caravan_engine.runtime.timing import Timing
from caravan_rpckit.errors import CaravanError

_log = logging.getLogger(__name__)

_CONCLUDED = "concluded"

Command = Callable[[], object]
T = TypeVar("T")


class EngineLoop:
    """Runs requests on a backend. Public methods may be called from any thread.

    Everything else happens on the decode thread, which owns the backend and the scheduler. Other
    threads post commands, which it obeys between two steps; it sleeps while there is nothing to do.

    Args:
        backend: Computes; the caller closes it after `stop`.
        limits: What may be promised.
        memory: Manages the backend's cells; from now on the decode thread's.
        notify: Called by the decode thread at most twice a step with the streams that have news.
        on_fatal: Called by the decode thread when it can't go on; must end the process.
        pacer: How far apart a stream's events are.
        timing: Where time comes from and measurements go.
    """

    def __init__(
        self,
        backend: Backend,
        limits: SchedulerLimits,
        memory: PagedMemory,
        *,
        notify: Callable[[Sequence[OutputStream]], None],
        on_fatal: Callable[[BaseException], None],
        pacer: EventPacer | None = None,
        timing: Timing | None = None,
    ) -> None:
        self._backend = backend
        self._limits = limits
        self._notify = notify
        self._on_fatal = on_fatal
        self._pacer = pacer or EventPacer()
        timing = timing or Timing()
        self._clock = timing.clock
        self._stats = EngineStats(num_seats=limits.num_seats, num_cells=limits.num_cells)
        self._rates = timing.rates
        weights = ClientWeights(limits.client_weights)
        outputs = ExpectedOutput()
        self._gate = QueueGate(limits.queue_capacity, weights)
        self._guard = DeadlineGuard(
            self._rates,
            num_seats=limits.num_seats,
            is_active=limits.refuses_late,
            weights=weights,
            outputs=outputs,
        )
        self._scheduler = Scheduler(
            limits,
            admission=Admission(limits, memory.kv, outputs),
            gate=self._gate,
            queue=RequestQueue(
                limits.queue_timeout_s,
                ageing_s_per_level=limits.ageing_s_per_level,
                weights=weights,
            ),
            end_tokens=backend.vocabulary.end_tokens,
            observer=Observers(self._stats, self._guard),
            batch_policy=make_batch_policy(limits, self._rates),
        )
        self._kv = memory.kv
        self._inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._entrance = Entrance(
            self._gate, self._guard, self._scheduler, clock=self._clock, post=self._inbox.put
        )
        self._opening = RequestOpening(
            backend,
            limits,
            self._pacer,
            on_read=self._has_read,
            on_close=lambda group: self._inbox.put(partial(self._cancel, group)),
            mark_written=self._mark_written,
        )
        self._runner = StepRunner(backend, memory.checksum)
        self._changed: dict[OutputStream, None] = {}
        self._drains: list[Future[None]] = []
        self._handing_over: HandingOver | None = None
        self._is_stopping = False
        self._num_evictions = 0
        self.on_eviction: Callable[[], None] = lambda: None
        """Called by the decode thread after a step for which pages had to leave; must not wait."""
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)

    # ── any thread ──

    def start(self) -> None:
        """Starts the decode thread."""
        self._thread.start()

    def submit(self, request: GenerationRequest) -> OutputStream:
        """Queues a request and returns its events; close the stream to cancel it.

        Raises:
            TokenOutOfRangeError: if it goes on from tokens that don't exist.
            ContextLengthExceededError: if it can never fit.
            InvalidFieldError: if it biases tokens that don't exist or wants more choices than
                there are seats.
            QueueFullError: if too many wait already, and nobody has to give way.
            DeadlineUnreachableError: if it would be done too late, as far as measured.
            DrainingError: after `drain`.
        """
        try:
            group, stream = self._opening.open(request, self._clock())
            self._entrance.enter(group, self._scheduler.submit if group.live else self._conclude)
        except CaravanError as error:
            self._stats.refused(error.reason.value.lower())
            raise
        return stream

    def retell(self, request: GenerationRequest) -> tuple[Delta, ...]:
        """Returns the deltas of what another worker emitted of a request; see `retell`."""
        return tuple(retell(request, self._backend.vocabulary.pieces))

    def embed(self, request: EmbeddingRequest) -> EmbeddingJob:
        """Queues an input whose vector is wanted.

        Raises:
            ContextLengthExceededError: if it can never fit.
            QueueFullError: if too many wait already, and nobody has to give way.
            DeadlineUnreachableError: if it would be done too late, as far as measured.
            DrainingError: after `drain`.
        """
        pooler = Pooler(request.pooling)
        writer = VectorWriter(pooler, self._clock)
        num_tokens = len(request.prompt)
        sequence = TokenSequence(request, max_tokens=num_tokens, work=pooler, output=writer)
        group = SequenceGroup(request, [sequence], output=writer, arrived=self._clock())
        try:
            self._limits.check_embedding(request)
            self._entrance.enter(group, self._scheduler.submit)
        except CaravanError as error:
            self._stats.refused(error.reason.value.lower())
            raise
        return EmbeddingJob(writer.result, lambda: self._inbox.put(partial(self._cancel, group)))

    def drain(self) -> Future[None]:
        """Refuses new requests from now on; the future is done when nobody runs or waits."""
        self._entrance.close()
        drained: Future[None] = Future()
        self._inbox.put(partial(self._drains.append, drained))
        return drained

    def hand_over(self, leave: Leave) -> Future[int]:
        """Ends every request after `leave` has taken its pages; the future tells how many."""
        self._entrance.close()
        handing_over = HandingOver(self._scheduler, self._kv, leave, self._carry_out)
        self._inbox.put(partial(self._begin, handing_over))
        return handing_over.done

    def take_in(self, images: Sequence[PageImage]) -> Future[None]:
        """Takes pages of another worker, each after the one before it.

        Requests that are submitted after this find them.
        """
        return self._order(partial(self._take_in, images))

    def share_cores(self, *, shares: bool) -> Future[None]:
        """Computes with half of its threads while another worker `shares` the cores."""
        return self._order(partial(self._backend.share_cores, shares=shares))

    def end_all(self, error: CaravanError) -> Future[int]:
        """Ends every request with `error`; the future tells how many there were."""
        return self._order(lambda: self._scheduler.end_all(error, self._clock()))

    def drop_pages(self, tenant: str) -> Future[int]:
        """Zeroes and forgets a tenant's pages; the future tells how many there were."""
        return self._order(lambda: self._kv.drop(tenant))

    def resize_pages(self, *, host_bytes: int | None, disk_bytes: int | None) -> Future[None]:
        """Changes the budgets of pages; None leaves one as it is."""
        return self._order(lambda: self._kv.resize(host_bytes=host_bytes, disk_bytes=disk_bytes))

    def prune_pages(self) -> Future[int]:
        """Removes pages from disk that nobody needs now; the future tells how many."""
        return self._order(lambda: prune(self._kv))

    def stored_lengths(self, texts: Sequence[tuple[bytes, Tokens]]) -> Future[list[int]]:
        """Tells how much of texts, given with their tenants' roots, is stored."""
        return self._order(lambda: stored_lengths(self._kv.store, texts))

    def stop(self) -> None:
        """Ends what still runs with DRAINING and waits for the decode thread."""
        self._entrance.close()
        self._inbox.put(self._stop)
        self._thread.join()

    def look_again(self) -> None:
        """Wakes the decode thread: something that it asks for at each step has changed."""
        self._inbox.put(_look_again)

    def stats(self) -> StatsSnapshot:
        """Returns the numbers of this moment."""
        return self._stats.snapshot(waiting=self._gate.num_waiting_by_priority, now=self._clock())

    def _order(self, work: Callable[[], T]) -> Future[T]:
        """Has something done between two steps, unless whoever ordered it is gone by then."""
        done: Future[T] = Future()

        def obey() -> None:
            if done.set_running_or_notify_cancel():
                done.set_result(work())

        self._inbox.put(obey)
        return done

    def _has_read(self, num_tokens: int) -> None:
        if num_tokens >= self._limits.max_unread_tokens:
            self._inbox.put(_look_again)

    # ── the decode thread ──

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                self._turn()
            self._runner.run(self._scheduler.schedule(self._clock()))  # nobody is left: releases
        except BaseException as error:  # noqa: BLE001 (a silent stall is worse than any end)
            _log.critical("the decode thread failed", exc_info=error)
            self._on_fatal(error)

    def _turn(self) -> None:
        if self._handing_over:
            self._hand_over_next(self._handing_over)
        else:
            self._compute()
        while not self._inbox.empty():
            self._inbox.get()()

    def _hand_over_next(self, handing_over: HandingOver) -> None:
        """Takes the place of steps: see `HandingOver` for why nobody computes meanwhile."""
        if not handing_over.advance(self._clock()):
            self._handing_over = None
        self._publish()

    def _compute(self) -> None:
        started = time.perf_counter()
        plan = self._scheduler.schedule(self._clock())
        self._publish()
        if plan.is_empty:
            self._rest()
        else:
            self._step(plan, started)

    def _step(self, plan: StepPlan, started: float) -> None:
        self._stats.stepping()
        result = self._runner.run(plan)
        if result.failure_code is not None:
            _log.error("a batch failed", extra={"code": result.failure_code})
        else:
            self._rates.observe(plan, result.decode_s + result.sample_s)
        now = self._clock()
        self._scheduler.apply(result, now)
        self._guard.stepped(plan, self._scheduler.running, now)
        gauges = self._gauges()
        self._pacer.update(gauges.num_running)
        self._stats.stepped(result, time.perf_counter() - started, gauges, now)
        self._tell_evictions(gauges)
        self._publish()  # last: whoever reads an end finds it in the numbers

    def _rest(self) -> None:
        """Sleeps until somebody commands something or a time is over."""
        gauges = self._gauges()
        self._stats.rested(gauges)
        self._tell_evictions(gauges)
        self._guard.rested(self._scheduler.running)
        if self._scheduler.is_idle:
            self._tell_drained()
        wakeup = self._scheduler.next_wakeup()
        timeout_s = None if wakeup is None else max(0.0, wakeup - self._clock())
        try:
            self._inbox.get(timeout=timeout_s)()
        except queue.Empty:
            return

    def _conclude(self, group: SequenceGroup) -> None:
        """Ends a request of which another worker did everything but say so."""
        now = self._clock()
        self._gate.leave(group, now)
        self._guard.ended(group, _CONCLUDED, now)
        group.output.start(group, cached_tokens=0)
        group.output.complete(group)
        self._publish()

    def _take_in(self, images: Sequence[PageImage]) -> None:
        if self._kv.store:
            self._kv.store.take_in(images)

    def _carry_out(self) -> None:
        """Makes a step of nothing but what is to be moved."""
        plan = StepPlan(self._kv.take_moves())
        self._scheduler.apply(self._runner.run(plan), self._clock())

    def _begin(self, handing_over: HandingOver) -> None:
        self._handing_over = handing_over

    def _cancel(self, group: SequenceGroup) -> None:
        self._scheduler.cancel(group, self._clock())

    def _stop(self) -> None:
        self._scheduler.end_all(DrainingError(), self._clock())
        self._publish()
        self._tell_drained()
        self._is_stopping = True

    def _tell_drained(self) -> None:
        for drained in self._drains:
            drained.set_result(None)
        self._drains.clear()

    def _mark_written(self, stream: OutputStream) -> None:
        self._changed[stream] = None

    def _publish(self) -> None:
        if self._changed:
            self._notify(tuple(self._changed))
            self._changed.clear()

    def _gauges(self) -> Gauges:
        return Gauges(
            num_running=len(self._scheduler.running),
            num_paused=self._scheduler.num_paused,
            num_parked=self._scheduler.num_parked,
            kv=self._kv.snapshot(),
        )

    def _tell_evictions(self, gauges: Gauges) -> None:
        """Comes after the numbers are told: whoever hears of an eviction finds it in them."""
        num_evictions = gauges.kv.stored.num_evictions
        if num_evictions > self._num_evictions:
            self._num_evictions = num_evictions
            self.on_eviction()


def _look_again() -> None:
    """Does nothing: that it was posted has woken the decode thread."""
