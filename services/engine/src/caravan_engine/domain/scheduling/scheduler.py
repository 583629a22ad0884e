"""Continuous batching: who computes what in each step, and what follows from the result.

Owns seats and the queue. Knows no model, no text and no clock.
"""

from collections.abc import Iterable

from caravan_engine.domain.errors import (
    DeadlineExceededError,
    DecodeFailedError,
    QueueTimeoutError,
    RequestCancelledError,
)
from caravan_engine.domain.events import FinishReason
from caravan_engine.domain.pooling import Pooler
from caravan_engine.domain.ports import SchedulerObserver
from caravan_engine.domain.sampling.logprobs import Logprobs
from caravan_engine.domain.scheduling.admission import Admission, groups_of
from caravan_engine.domain.scheduling.batch_policy import BatchPolicy, DecodeFirst, TakingTurns
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.domain.scheduling.queue_gate import QueueGate
from caravan_engine.domain.scheduling.reader_watch import ReaderWatch
from caravan_engine.domain.scheduling.request_queue import RequestQueue
from caravan_engine.domain.sequence import Sequence, SequenceGroup
from caravan_engine.domain.step import Chunk, StepPlan, StepResult
from caravan_rpckit.errors import CaravanError

_MAX_FAILURES = 2
_EMBEDDED = "embedded"


class Scheduler:
    """Two of the three verbs: `schedule` makes a plan, somebody runs it, `apply` takes the result.

    Sequences join and leave at every step. Owned by the decode thread; `now` never goes back.

    Args:
        limits: What may be promised.
        admission: Judges who gets seats, by what sequences have in the cells.
        gate: Counts who waits; the caller has entered it for each submitted request.
        queue: Orders who waits.
        end_tokens: Tokens by which the model ends a text.
        observer: Hears what happens.
        batch_policy: Divides the token budget.
    """

    def __init__(
        self,
        limits: SchedulerLimits,
        *,
        admission: Admission,
        gate: QueueGate,
        queue: RequestQueue,
        end_tokens: frozenset[int],
        observer: SchedulerObserver,
        batch_policy: BatchPolicy | None = None,
    ) -> None:
        self._limits = limits
        self._kv = admission.kv
        self._gate = gate
        self._queue = queue
        self._end_tokens = end_tokens
        self._observer = observer
        self._batch_policy = batch_policy or TakingTurns(DecodeFirst())
        self._admission = admission
        self._readers = ReaderWatch(limits)
        self._free_seats = list(reversed(range(limits.num_seats)))
        self._running: dict[int, Sequence] = {}  # by seat, in order of admission
        self._departing: dict[SequenceGroup, None] = {}

    # ── the verbs ──

    def schedule(self, now: float) -> StepPlan:
        """Returns the next step.

        An empty plan means that there is nothing to do before `next_wakeup`, unless somebody
        submits, cancels or reads, or the disk has news.
        """
        self._end_overdue(now)
        self._kv.hear()
        self._admit(now)
        chunks = self._compose(now)
        self._start(chunks, now)
        self._kv.tidy(now)
        side, num_used = self._limits.side, self._kv.cells.num_used
        is_aside = side is not None and side.takes(chunks, num_used)
        return StepPlan(self._kv.take_moves(), chunks, is_aside=is_aside)

    def apply(self, result: StepResult, now: float) -> None:
        """Takes what came of the plan that `schedule` returned last."""
        if result.is_computed:  # all of it, before anything frees cells
            self._note_computed(result.plan)
        spoilt = self._kv.moved(result)
        if result.failed_imports:
            self._recompute(spoilt)
            return
        if result.failure_code is not None:
            self._replay(result.plan, now)
            return
        self._take_vectors(result.plan, now)
        for seat in result.unusable:
            if found := self._running.get(seat):  # none: its request failed with another choice
                found.num_failures += 1  # its pages are kept for nobody
                self._fail(found.group, DecodeFailedError(), now)
        for seat, token in result.tokens.items():
            if found := self._running.get(seat):
                self._take(found, token, result.logprobs.get(seat), now)

    # ── commands ──

    def submit(self, group: SequenceGroup) -> None:
        """Lets a request wait for its seats."""
        self._queue.push(group)

    def cancel(self, group: SequenceGroup, now: float) -> None:
        """Ends a request whose caller left; nothing happens if it is over already."""
        self.end(group, RequestCancelledError(), now)

    def end_all(self, error: CaravanError, now: float) -> int:
        """Ends every request with `error`; returns how many there were."""
        running = groups_of(self.running)
        groups = [*self._queue, *running, *self._readers.put_aside, *self._departing]
        return self._end_some(groups, error, now)

    def end_new(self, error: CaravanError, now: float) -> int:
        """Ends every request with `error` that has no memory worth keeping; returns how many."""
        groups = [each for each in self._queue if not each.num_parkings]
        groups += [each for each in groups_of(self.running) if _is_embedding(each)]
        return self._end_some(groups, error, now)

    def take_aside(self, now: float) -> SequenceGroup | None:
        """Parks one that is to go on elsewhere, first who is parked already; `end` ends it."""
        parked = [each for each in (*self._queue, *self._readers.put_aside) if each.num_parkings]
        group = next(iter((*parked, *groups_of(self.running))), None)
        if group is not None:
            self._readers.forget(group)
            if group in self._queue:
                self._leave_queue(group, now)
            self._unseat(group, now, leaves=True)
            self._departing[group] = None
        return group

    def end(self, group: SequenceGroup, error: CaravanError, now: float) -> None:
        """Ends a request, unless it is over."""
        if group.live:
            self._fail(group, error, now)

    # ── what it looks like now ──

    @property
    def running(self) -> tuple[Sequence, ...]:
        """Sequences with a seat, in order of admission."""
        return tuple(self._running.values())

    @property
    def num_parked(self) -> int:
        """Requests that gave their seats up and wait for new ones."""
        return self._queue.num_parked + len(self._readers.put_aside)

    @property
    def num_paused(self) -> int:
        """Sequences that wait for their reader."""
        return sum(each.paused_since is not None for each in self._running.values())

    @property
    def is_idle(self) -> bool:
        """Whether nobody runs or waits."""
        others = self._readers.put_aside or self._departing
        return not (self._running or len(self._queue) or others)

    def next_wakeup(self) -> float | None:
        """Returns the next moment at which time alone changes something."""
        moments = [self._queue.next_expiry(), self._readers.next_end(self.running)]
        moments += [sequence.request.deadline for sequence in self._running.values()]
        return min((moment for moment in moments if moment is not None), default=None)

    # ── before a step ──

    def _end_overdue(self, now: float) -> None:
        for group in self._queue.pop_expired(now):
            self._leave_queue(group, now)
            self._end(group, self._queue_error(group, now), now)
        for group in self._readers.come_back(now):
            self._queue.requeue(group, now)
        for sequence in (*self.running, *self._readers.put_aside_sequences):
            error = self._overdue_error(sequence, now)
            if error and sequence.group.live:
                self._fail(sequence.group, error, now)

    def _overdue_error(self, sequence: Sequence, now: float) -> CaravanError | None:
        if _is_past(sequence.request.deadline, now):
            return DeadlineExceededError()
        return self._readers.watch(sequence, now)

    def _queue_error(self, group: SequenceGroup, now: float) -> CaravanError:
        if _is_past(group.request.deadline, now):
            return DeadlineExceededError()
        waited_s = now - group.times.arrived
        return QueueTimeoutError(waited_s=waited_s, retry_after_s=self._gate.retry_after_s())

    def _admit(self, now: float) -> None:
        """Seats those at the head of the queue; one who doesn't fit yet is not overtaken."""
        while group := self._queue.peek(now):
            if not self._admission.fits(group, self._running.values()):
                if not (parked := self._admission.make_way(group, self._running.values())):
                    break
                for each in parked:
                    self._park(each, now)
            group.claim = self._queue.effective_priority(group, now)
            self._leave_queue(group, now)
            self._seat(group, now)
        if self._kv.reads_ahead:
            self._prefetch(now)

    def _seat(self, group: SequenceGroup, now: float) -> None:
        for sequence in group.live:
            sequence.seat = self._free_seats.pop()
            self._running[sequence.seat] = sequence
            self._kv.seat(sequence, sequence.seat)
        if not group.num_parkings:
            self._observer.admitted(group, now)

    def _prefetch(self, now: float) -> None:
        """Lets the disk read what those who come next will need."""
        for rank, group in enumerate(self._queue.upcoming(self._limits.prefetch_lookahead, now)):
            self._kv.prefetch(group.live[0], rank)

    def _leave_queue(self, group: SequenceGroup, now: float) -> None:
        """Takes a group out; only new ones count against the queue's size."""
        if group in self._queue:
            self._queue.remove(group)
        if not group.num_parkings:
            self._gate.leave(group, now)

    def _compose(self, now: float) -> tuple[Chunk, ...]:
        """Divides the step among those who may compute; parks somebody if cells run out."""
        while not self._kv.make_room(needed := self._num_needed(runnable := self._runnable())):
            self._give_way(now)
        budget = min(self._limits.token_budget, max(self._kv.num_free, needed))
        return self._batch_policy.compose(runnable, budget) if runnable else ()

    def _give_way(self, now: float) -> None:
        """Takes cells from whoever costs least; the last request gives up what it has double.

        All its choices but the first then take what they can from those before them.
        """
        victim = self._admission.victim(self._running.values())
        if victim is not None:
            self._park(victim, now)
            return
        _, *others = self._running.values()
        if not any(each.num_computed for each in others):
            raise RuntimeError("a request that the limits let in does not fit")
        for each in others:
            self._kv.begin_again(each)

    def _num_needed(self, runnable: dict[int, Sequence]) -> int:
        """Returns the cells of a step that lets everybody decode, and some prompt go on."""
        num_decoding = sum(each.num_pending == 1 for each in runnable.values())
        wanted = num_decoding + (num_decoding < len(runnable))
        return min(wanted, self._limits.token_budget)

    def _runnable(self) -> dict[int, Sequence]:
        """Returns who takes part in the step, by seat.

        A sequence whose batch failed is tried again alone, until it gets a token: so the one that
        makes batches fail is found, and nobody else ends with it.
        """
        ready = {
            seat: each
            for seat, each in self._running.items()
            if each.paused_since is None and self._kv.prepare(each)
        }
        suspect = next((seat for seat, each in ready.items() if each.num_failures), None)
        return ready if suspect is None else {suspect: ready[suspect]}

    def _start(self, chunks: tuple[Chunk, ...], now: float) -> None:
        """Tells those whose computation begins now, and what of it was there already."""
        for chunk in chunks:
            group = self._running[chunk.seq_id].group
            if group.times.started is None:
                group.times.started = now
                group.cached_tokens = chunk.start
                group.output.start(group, cached_tokens=chunk.start)
                self._queue.charge_input(group, group.num_prompt_tokens - chunk.start)
                self._observer.started(group, now)

    def _park(self, group: SequenceGroup, now: float) -> None:
        """Takes the seats of a request; it goes on later where it was."""
        group.num_parkings += 1
        self._unseat(group, now)
        self._observer.parked(group, now)
        if not self._readers.put_away(group):
            self._queue.requeue(group, now)

    def _unseat(self, group: SequenceGroup, now: float, *, leaves: bool = False) -> None:
        for sequence in group.live:
            if sequence.seat is not None:
                del self._running[sequence.seat]
                self._free_seats.append(sequence.seat)
                self._kv.park(sequence, now, leaves=leaves)
                sequence.seat = None

    # ── after a step ──

    def _note_computed(self, plan: StepPlan) -> None:
        for chunk in plan.chunks:
            self._kv.computed(self._running[chunk.seq_id], chunk.start, len(chunk.tokens))

    def _take(self, sequence: Sequence, token: int, logprobs: Logprobs | None, now: float) -> None:
        if token in self._end_tokens:  # never chosen where the caller ignores them
            self._finish(sequence, FinishReason.END_OF_TEXT, now)
            return
        self._observer.generated(sequence, now)
        self._queue.charge_output(sequence.group, 1)
        sequence.append(token, now)
        sequence.stop_string = sequence.output.append(token, logprobs)
        if sequence.stop_string is not None:
            self._finish(sequence, FinishReason.STOP_STRING, now)
        elif len(sequence.tokens) == sequence.max_tokens:
            self._finish(sequence, FinishReason.LENGTH, now)

    def _take_vectors(self, plan: StepPlan, now: float) -> None:
        for chunk in plan.chunks:
            sequence = self._running.get(chunk.seq_id)
            if chunk.pooler and sequence and sequence.num_pending == 0:
                self._take_vector(sequence, chunk.pooler, now)

    def _take_vector(self, sequence: Sequence, pooler: Pooler, now: float) -> None:
        if pooler.vector() is None:
            self._fail(sequence.group, DecodeFailedError(), now)
        else:
            self._conclude(sequence, _EMBEDDED, now)

    def _recompute(self, seq_ids: Iterable[int]) -> None:
        for seat in seq_ids:
            if sequence := self._running.get(seat):
                self._kv.begin_again(sequence)

    def _replay(self, plan: StepPlan, now: float) -> None:
        for chunk in plan.chunks:
            if sequence := self._running.get(chunk.seq_id):
                sequence.num_failures += 1
                self._kv.begin_again(sequence)
                if sequence.num_failures == _MAX_FAILURES:
                    self._fail(sequence.group, DecodeFailedError(), now)

    def _finish(self, sequence: Sequence, reason: FinishReason, now: float) -> None:
        sequence.output.finish(sequence, reason)
        self._conclude(sequence, reason.value, now)

    def _conclude(self, sequence: Sequence, outcome: str, now: float) -> None:
        """Ends a sequence, and its request with the last one."""
        group = sequence.group
        self._leave(sequence, now)
        if not group.live:
            group.output.complete(group)
            self._queue.ended(group)
            self._observer.ended(group, outcome, now)

    def _fail(self, group: SequenceGroup, error: CaravanError, now: float) -> None:
        """Takes a request out of wherever it is, and ends it."""
        self._readers.forget(group)
        self._departing.pop(group, None)
        if group in self._queue:
            self._leave_queue(group, now)
        for sequence in tuple(group.live):
            self._leave(sequence, now)
        self._end(group, error, now)

    def _end_some(self, groups: list[SequenceGroup], error: CaravanError, now: float) -> int:
        for group in groups:
            self._fail(group, error, now)
        return len(groups)

    def _end(self, group: SequenceGroup, error: CaravanError, now: float) -> None:
        for sequence in tuple(group.live):
            self._leave(sequence, now)
        group.output.fail(error)
        self._queue.ended(group)
        self._observer.ended(group, error.reason.value.lower(), now)

    def _leave(self, sequence: Sequence, now: float) -> None:
        """Frees what a sequence has; what it computed is kept for others."""
        sequence.group.live.remove(sequence)
        self._kv.leave(sequence, now)
        if sequence.seat is not None:
            del self._running[sequence.seat]
            self._free_seats.append(sequence.seat)
            sequence.seat = None


def _is_embedding(group: SequenceGroup) -> bool:
    return any(isinstance(each.work, Pooler) for each in group.live)


def _is_past(moment: float | None, now: float) -> bool:
    return moment is not None and moment <= now
