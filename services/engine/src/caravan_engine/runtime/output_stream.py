"""Carries events from the decode thread to asyncio readers, several tokens in one under load."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from caravan_engine.domain.events import Delta, Event, TokenLogprobs
from caravan_engine.runtime.detokenizer import TextPiece
from caravan_rpckit.errors import CaravanError


@dataclass(slots=True)
class EventPacer:
    """Keeps a worker's events under a budget by spacing those of each stream.

    The decode thread updates it, streams read it.
    """

    events_per_s: float = 200.0
    max_interval_s: float = 0.1
    interval_s: float = 0.0

    def update(self, num_running: int) -> None:
        """Spaces events so that `num_running` streams together keep to the budget."""
        self.interval_s = min(num_running / self.events_per_s, self.max_interval_s)


@dataclass(slots=True)
class _OpenDelta:
    """A delta that still grows."""

    choice_index: int
    token_offset: int
    texts: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    mirostat_mu: float | None = None

    def close(self) -> Delta:
        return Delta(
            self.choice_index,
            "".join(self.texts),
            tuple(self.token_ids),
            self.token_offset,
            tuple(self.logprobs),
            self.mirostat_mu,
        )


class OutputStream:
    """The events of one request: `async for event in stream`, then it ends or raises.

    Written by the decode thread, read by one task of one event loop. What accumulates while the
    reader is busy rides in one event, so it is bounded by the unread tokens that the scheduler
    allows. The first token and the end go out at once; between them events keep the pacer's
    distance.

    Args:
        pacer: How far apart events are.
        on_read: Called on the reader's thread with the number of tokens that it took.
        on_close: Called on the reader's thread when it leaves before the end.
    """

    def __init__(
        self,
        pacer: EventPacer,
        *,
        on_read: Callable[[int], None],
        on_close: Callable[[], None],
    ) -> None:
        self._pacer = pacer
        self._on_read = on_read
        self._on_close = on_close
        self._lock = threading.Lock()  # guards the next six
        self._written: list[Event | _OpenDelta] = []
        self._growing: dict[int, _OpenDelta] = {}  # those of `_written`, by choice
        self._num_unread = 0
        self._is_urgent = False
        self._is_over = False
        self._error: CaravanError | None = None
        self._has_text = False
        self._taken: deque[Event] = deque()  # the rest belongs to the reader
        self._waiter: asyncio.Future[None] | None = None
        self._is_timed = False
        self._last_event_at = 0.0

    # ── the decode thread's side ──

    @property
    def num_unread(self) -> int:
        """Tokens that the reader hasn't taken."""
        return self._num_unread

    def write(self, event: Event) -> None:
        """Appends an event that goes out at once."""
        with self._lock:
            self._written.append(event)
            self._is_urgent = True

    def write_text(
        self,
        choice_index: int,
        piece: TextPiece,
        token_offset: int,
        logprobs: Sequence[TokenLogprobs] = (),
        mirostat_mu: float | None = None,
    ) -> None:
        """Appends text of a choice, joining it with text that hasn't been taken."""
        with self._lock:
            delta = self._growing_delta(choice_index, token_offset)
            delta.texts.append(piece.text)
            delta.token_ids.extend(piece.token_ids)
            delta.logprobs.extend(logprobs)
            delta.mirostat_mu = mirostat_mu
            self._num_unread += len(piece.token_ids)
            self._is_urgent = self._is_urgent or not self._has_text
            self._has_text = True

    def end(self, error: CaravanError | None = None) -> None:
        """Ends the stream after what was written, with `error` if there is one."""
        with self._lock:
            self._error = error
            self._is_over = self._is_urgent = True

    def _growing_delta(self, choice_index: int, token_offset: int) -> _OpenDelta:
        delta = self._growing.get(choice_index)
        if delta is None:
            delta = self._growing[choice_index] = _OpenDelta(choice_index, token_offset)
            self._written.append(delta)
        return delta

    # ── the reader's side ──

    def __aiter__(self) -> "OutputStream":
        return self

    async def __anext__(self) -> Event:
        while not self._taken:
            await self._wait_until_due()
            if not self._take():
                self._raise_end()
        return self._taken.popleft()

    async def aclose(self) -> None:
        """See `close`."""
        self.close()

    def close(self) -> None:
        """Says that nobody reads any more; a request that still runs is cancelled."""
        if not self._is_over:
            self._on_close()

    def wake(self) -> None:
        """Lets the reader look again; called on its event loop after something was written."""
        waits_for_time = self._is_timed and not self._is_urgent
        if self._waiter and not self._waiter.done() and not waits_for_time:
            self._waiter.set_result(None)

    async def _wait_until_due(self) -> None:
        loop = asyncio.get_running_loop()
        while (delay_s := self._delay_s(loop.time())) != 0:
            self._waiter = loop.create_future()
            self._is_timed = delay_s is not None
            timer = loop.call_later(delay_s, self._ring) if delay_s is not None else None
            try:
                await self._waiter
            finally:
                self._waiter, self._is_timed = None, False
                if timer:
                    timer.cancel()

    def _ring(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def _delay_s(self, now: float) -> float | None:
        """Returns how long the reader has to wait; None if until something is written."""
        if self._is_urgent:
            return 0
        if not self._written:
            return None
        return max(0.0, self._last_event_at + self._pacer.interval_s - now)

    def _take(self) -> bool:
        with self._lock:
            written, self._written = self._written, []
            self._growing.clear()
            num_read, self._num_unread = self._num_unread, 0
            self._is_urgent = self._is_over  # once over, there is nothing to wait for
        for event in written:
            self._taken.append(event.close() if isinstance(event, _OpenDelta) else event)
        self._last_event_at = asyncio.get_running_loop().time()
        self._on_read(num_read)
        return bool(written)

    def _raise_end(self) -> None:
        if self._error:
            raise self._error
        if self._is_over:
            raise StopAsyncIteration


class LoopNotifier:
    """Wakes the readers of an event loop; called once per step, by the decode thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def __call__(self, streams: Sequence[OutputStream]) -> None:
        """Lets the readers of `streams` look again.

        A loop that is closed has no readers left to wake.
        """
        try:
            self._loop.call_soon_threadsafe(_wake_all, streams)
        except RuntimeError:
            if not self._loop.is_closed():
                raise


def _wake_all(streams: Iterable[OutputStream]) -> None:
    for stream in streams:
        stream.wake()
