"""Continuous batching: who computes what in each step, and what follows from the result.

Owns seats, cells and the queue. Knows no model, no text and no clock.
"""

from caravan_engine.domain.batch_policy import BatchPolicy, DecodeFirst, TakingTurns
from caravan_engine.domain.cells import CellLedger
from caravan_engine.domain.errors import (
    DeadlineExceededError,
    DecodeFailedError,
    QueueTimeoutError,
    ReaderStalledError,
    RequestCancelledError,
)
from caravan_engine.domain.events import FinishReason
from caravan_engine.domain.limits import SchedulerLimits
from caravan_engine.domain.logprobs import Logprobs
from caravan_engine.domain.pooling import Pooler
from caravan_engine.domain.ports import SchedulerObserver
from caravan_engine.domain.request_queue import QueueGate, RequestQueue
from caravan_engine.domain.sequence import Sequence, SequenceGroup
from caravan_engine.domain.step import SharedPrefix, StepPlan, StepResult
from caravan_rpckit.errors import CaravanError

_MAX_FAILURES = 2
_EMBEDDED = "embedded"


class Scheduler:
    """Two of the three verbs: `schedule` makes a plan, somebody runs it, `apply` takes the result.

    Sequences join and leave at every step. Owned by the decode thread; `now` never goes back.

    Args:
        limits: What may be promised.
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
        gate: QueueGate,
        queue: RequestQueue,
        end_tokens: frozenset[int],
        observer: SchedulerObserver,
        batch_policy: BatchPolicy | None = None,
    ) -> None:
        self._limits = limits
        self._gate = gate
        self._queue = queue
        self._end_tokens = end_tokens
        self._observer = observer
        self._batch_policy = batch_policy or TakingTurns(DecodeFirst())
        self._cells = CellLedger(limits.num_cells)
        self._free_seats = list(reversed(range(limits.num_seats)))
        self._running: dict[int, Sequence] = {}  # by seat, in order of admission
        self._releases: list[int] = []  # seats whose memory the next step drops first

    # ── the verbs ──

    def schedule(self, now: float) -> StepPlan:
        """Returns the next step.

        An empty plan means that there is nothing to do before `next_wakeup`, unless somebody
        submits, cancels or reads.
        """
        self._end_overdue(now)
        self._admit(now)
        prefixes = self._share_prefixes()
        chunks = self._batch_policy.compose(self._runnable(), self._limits.token_budget)
        releases = tuple(self._releases)
        self._releases.clear()
        return StepPlan(releases, chunks, prefixes)

    def apply(self, result: StepResult, now: float) -> None:
        """Takes what came of the plan that `schedule` returned last."""
        if result.failure_code is not None:
            self._replay(result.plan, now)
            return
        for chunk in result.plan.chunks:
            sequence = self._running[chunk.seq_id]
            sequence.num_computed = chunk.end
            if chunk.pooler and sequence.num_pending == 0:
                self._take_vector(sequence, chunk.pooler, now)
        for seat in result.unusable:
            if found := self._running.get(seat):  # none: its request failed with another choice
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
        if group.live:
            self._fail(group, RequestCancelledError(), now)

    def end_all(self, error: CaravanError, now: float) -> int:
        """Ends every request with `error`; returns how many there were."""
        groups = [*self._queue, *self._running_groups()]
        for group in groups:
            self._fail(group, error, now)
        return len(groups)

    # ── what it looks like now ──

    @property
    def running(self) -> tuple[Sequence, ...]:
        """Sequences with a seat, in order of admission."""
        return tuple(self._running.values())

    @property
    def num_used_cells(self) -> int:
        """Cells that hold something."""
        return sum(group.num_used_cells for group in self._running_groups())

    @property
    def num_paused(self) -> int:
        """Sequences that wait for their reader."""
        return sum(each.paused_since is not None for each in self._running.values())

    @property
    def is_idle(self) -> bool:
        """Whether nobody runs or waits."""
        return not self._running and not len(self._queue)

    def next_wakeup(self) -> float | None:
        """Returns the next moment at which time alone changes something."""
        moments = [self._queue.next_expiry()]
        for sequence in self._running.values():
            moments.append(sequence.request.deadline)
            if sequence.paused_since is not None:
                moments.append(sequence.paused_since + self._limits.reader_stall_s)
        return min((moment for moment in moments if moment is not None), default=None)

    # ── before a step ──

    def _end_overdue(self, now: float) -> None:
        for group in self._queue.pop_expired(now):
            self._gate.leave(now)
            self._end(group, self._queue_error(group, now), now)
        for sequence in self.running:
            self._watch_reader(sequence, now)
            error = self._overdue_error(sequence, now)
            if error and sequence.group.live:
                self._fail(sequence.group, error, now)

    def _watch_reader(self, sequence: Sequence, now: float) -> None:
        if sequence.output.num_unread < self._limits.max_unread_tokens:
            sequence.paused_since = None
        elif sequence.paused_since is None:
            sequence.paused_since = now

    def _overdue_error(self, sequence: Sequence, now: float) -> CaravanError | None:
        if _is_past(sequence.request.deadline, now):
            return DeadlineExceededError()
        if sequence.paused_since is None:
            return None
        stalled_s = now - sequence.paused_since
        if stalled_s < self._limits.reader_stall_s:
            return None
        return ReaderStalledError(stalled_s=stalled_s)

    def _queue_error(self, group: SequenceGroup, now: float) -> CaravanError:
        if _is_past(group.request.deadline, now):
            return DeadlineExceededError()
        waited_s = now - group.times.arrived
        return QueueTimeoutError(waited_s=waited_s, retry_after_s=self._gate.retry_after_s())

    def _admit(self, now: float) -> None:
        """Seats those at the head of the queue; one who doesn't fit yet is not overtaken."""
        while self._free_seats and (group := self._queue.peek(now)):
            if not self._fits(group):
                break
            self._queue.remove(group)
            self._gate.leave(now)
            self._seat(group, now)

    def _fits(self, group: SequenceGroup) -> bool:
        return len(group.sequences) <= len(self._free_seats) and self._cells.fits(group.num_cells)

    def _seat(self, group: SequenceGroup, now: float) -> None:
        self._cells.reserve(group, group.num_shared)
        for sequence in group.sequences:
            sequence.seat = self._free_seats.pop()
            self._cells.reserve(sequence, group.num_own_cells(sequence))
            self._running[sequence.seat] = sequence
        group.times.started = now
        self._queue.charge_input(group, group.num_prompt_tokens)
        group.output.start(group, cached_tokens=0)
        self._observer.admitted(group, now)

    def _share_prefixes(self) -> tuple[SharedPrefix, ...]:
        found = (each.group.prefix_for(each) for each in self._running.values())
        return tuple(prefix for prefix in found if prefix)

    def _runnable(self) -> dict[int, Sequence]:
        """Returns who takes part in the step, by seat.

        A sequence whose batch failed is tried again alone, until it gets a token: so the one that
        makes batches fail is found, and nobody else ends with it.
        """
        ready = {
            seat: each
            for seat, each in self._running.items()
            if each.paused_since is None and each.group.lets_run(each)
        }
        suspect = next((seat for seat, each in ready.items() if each.num_failures), None)
        return ready if suspect is None else {suspect: ready[suspect]}

    # ── after a step ──

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

    def _take_vector(self, sequence: Sequence, pooler: Pooler, now: float) -> None:
        if pooler.vector() is None:
            self._fail(sequence.group, DecodeFailedError(), now)
        else:
            self._conclude(sequence, _EMBEDDED, now)

    def _replay(self, plan: StepPlan, now: float) -> None:
        for chunk in plan.chunks:
            if sequence := self._running.get(chunk.seq_id):
                self._begin_again(sequence, now)

    def _begin_again(self, sequence: Sequence, now: float) -> None:
        sequence.num_failures += 1
        sequence.num_computed = 0
        if sequence.num_failures == _MAX_FAILURES:
            self._fail(sequence.group, DecodeFailedError(), now)
        elif sequence.seat is not None:
            self._releases.append(sequence.seat)

    def _finish(self, sequence: Sequence, reason: FinishReason, now: float) -> None:
        sequence.output.finish(sequence, reason)
        self._conclude(sequence, reason.value, now)

    def _conclude(self, sequence: Sequence, outcome: str, now: float) -> None:
        """Ends a sequence, and its request with the last one."""
        group = sequence.group
        self._leave(sequence)
        if not group.live:
            group.output.complete(group)
            self._queue.ended(group)
            self._observer.ended(group, outcome, now)

    def _fail(self, group: SequenceGroup, error: CaravanError, now: float) -> None:
        """Takes a request out of the queue or off its seats, and ends it."""
        if group in self._queue:
            self._queue.remove(group)
            self._gate.leave(now)
        else:
            for sequence in tuple(group.live):
                self._leave(sequence)
        self._end(group, error, now)

    def _end(self, group: SequenceGroup, error: CaravanError, now: float) -> None:
        group.live.clear()
        group.output.fail(error)
        self._queue.ended(group)
        self._observer.ended(group, error.reason.value.lower(), now)

    def _leave(self, sequence: Sequence) -> None:
        """Frees a seat and what only it needs; the last one also frees what was shared."""
        seat = sequence.seat
        if seat is None:
            return
        del self._running[seat]
        self._cells.release(sequence)
        self._free_seats.append(seat)
        self._releases.append(seat)
        sequence.group.live.remove(sequence)
        if not sequence.group.live:
            self._cells.release(sequence.group)

    def _running_groups(self) -> tuple[SequenceGroup, ...]:
        return tuple(dict.fromkeys(each.group for each in self._running.values()))


def _is_past(moment: float | None, now: float) -> bool:
    return moment is not None and moment <= now
