"""What a generation has told so far, as far as its client may ask for it again."""

from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from caravan_engine.domain.errors import InvalidFieldError
from caravan_engine.domain.events import Completed, Delta, Event, Finished, Started
from caravan_engine.domain.request import Emitted
from caravan_rpckit.errors import FieldViolation

# Python's own share of an event, of a token and of a log-probability: what the bound means needs
# the order of magnitude, not the byte.
_EVENT_BYTES = 160
_TOKEN_BYTES = 12
_LOGPROB_BYTES = 120


@dataclass(frozen=True, slots=True)
class Received:
    """What a client says that it has of a choice."""

    num_tokens: int = 0
    is_finished: bool = False


def _no_tokens() -> "array[int]":
    return array("I")


@dataclass(slots=True)
class _Choice:
    """All tokens of a choice; the deltas of those from `start` on are kept."""

    tokens: "array[int]" = field(default_factory=_no_tokens)
    start: int = 0
    start_mu: float | None = None  # Mirostat's mu after the tokens before `start`
    is_finished: bool = False
    finished: Finished | None = None  # unknown of one that ended before this output began


class KeptOutput:
    """The events of one request in their order. Owned by whoever takes them in.

    Tokens are kept to the last one: they are what a continuation begins with. Of the deltas, which
    are much larger, the oldest may be let go. The obvious structure, a list for each choice, loses
    the order in which a client would have got them.

        tokens of a choice:  0 ........ start ........ a client has so many ....... all
                             no deltas      deltas
    """

    def __init__(
        self,
        earlier: Sequence[Emitted] = (),
        retold: Sequence[Delta] = (),
        *,
        keeps_events: bool = True,
    ) -> None:
        """Begins with what other workers did.

        Args:
            earlier: What there is of each choice, by index.
            retold: The deltas of all of it, if they can be told again.
            keeps_events: Whether more than the count of tokens is wanted.
        """
        self._keeps_events = keeps_events
        self.has_begun = bool(earlier)
        self.started: Started | None = None
        self.completed: Completed | None = None
        self.num_bytes = 0
        self._events: deque[Delta | Finished] = deque()
        self._choices: dict[int, _Choice] = {}
        for index, emitted in enumerate(earlier):
            self._choices[index] = _Choice(
                tokens=array("I", emitted.tokens),
                start=0 if retold else len(emitted.tokens),
                start_mu=None if retold else emitted.mirostat_mu,
                is_finished=emitted.is_finished,
            )
            self.num_bytes += _TOKEN_BYTES * len(emitted.tokens)
        for delta in retold:
            self._keep(delta)

    @property
    def output_tokens(self) -> int:
        """Tokens of all choices."""
        return sum(len(choice.tokens) for choice in self._choices.values())

    @property
    def finished(self) -> tuple[Finished, ...]:
        """How the choices ended that are over, by index, where it is known."""
        ends = (self._choices[index].finished for index in sorted(self._choices))
        return tuple(end for end in ends if end is not None)

    def take(self, event: Event) -> None:
        """Takes in the next event."""
        match event:
            case Delta():
                choice = self._choices.setdefault(event.choice_index, _Choice())
                choice.tokens.extend(event.token_ids)
                self.num_bytes += _TOKEN_BYTES * len(event.token_ids)
                self._keep(event)
            case Finished():
                choice = self._choices.setdefault(event.choice_index, _Choice())
                choice.is_finished, choice.finished = True, event
                self._keep(event)
            case Started():
                self.has_begun, self.started = True, self.started or event
            case Completed():
                self.completed = event

    def trim(self, max_bytes: int) -> None:
        """Lets the oldest events go until what is kept has at most `max_bytes`, where it can."""
        while self.num_bytes > max_bytes and self._events:
            oldest = self._events.popleft()
            self.num_bytes -= _size_of(oldest)
            choice = self._choices[oldest.choice_index]
            if isinstance(oldest, Delta):
                choice.start = oldest.token_offset + len(oldest.token_ids)
                choice.start_mu = oldest.mirostat_mu

    def history(
        self, received: Sequence[Received], choice_count: int
    ) -> tuple[Emitted, ...] | None:
        """Returns what a client has of each choice; None if what follows isn't kept any more.

        Raises:
            InvalidFieldError: the client can't have that.
        """
        given = [*received, *[Received()] * (choice_count - len(received))]
        faults = tuple(self._faults(given, choice_count))
        if faults:
            raise InvalidFieldError(*faults)
        known = [self._choices.get(index) or _Choice() for index in range(choice_count)]
        for choice, has in zip(known, given, strict=True):
            is_lost = choice.is_finished and choice.finished is None and not has.is_finished
            if has.num_tokens < choice.start or is_lost:
                return None
        return tuple(self._emitted(index, has) for index, has in enumerate(given))

    def follows(self, emitted: Sequence[Emitted]) -> bool:
        """Whether this is the generation that goes on from there, and all of that is kept."""
        received = [Received(len(each.tokens), each.is_finished) for each in emitted]
        try:
            history = self.history(received, len(emitted))
        except InvalidFieldError:
            return False
        return history is not None and all(
            mine.tokens == tuple(each.tokens) for mine, each in zip(history, emitted, strict=True)
        )

    def after(self, received: Sequence[Emitted]) -> list[Event]:
        """Returns what follows, `started` included, which is always said again."""
        events: list[Event] = [] if self.started is None else [self.started]
        for event in self._events:
            has = received[event.choice_index] if received else Emitted()
            if isinstance(event, Finished):
                is_new = not has.is_finished
            else:
                is_new = event.token_offset >= len(has.tokens)
            if is_new:
                events.append(event)
        return events if self.completed is None else [*events, self.completed]

    def _keep(self, event: Delta | Finished) -> None:
        if not self._keeps_events:
            return
        self._events.append(event)
        self.num_bytes += _size_of(event)

    def _faults(self, received: Sequence[Received], choice_count: int) -> Iterator[FieldViolation]:
        if len(received) > choice_count:
            yield FieldViolation("choices", f"the stream has {choice_count}")
            return
        for index, has in enumerate(received):
            path, choice = f"choices[{index}]", self._choices.get(index) or _Choice()
            if has.is_finished and not (
                choice.is_finished and has.num_tokens == len(choice.tokens)
            ):
                yield FieldViolation(f"{path}.finished", "the choice isn't over there")
            elif has.num_tokens > len(choice.tokens):
                yield FieldViolation(f"{path}.output_tokens", "more than were generated")
            elif has.num_tokens > choice.start and has.num_tokens not in self._ends(index):
                yield FieldViolation(f"{path}.output_tokens", "not at the end of a delta")

    def _ends(self, index: int) -> dict[int, float | None]:
        """Where the deltas of a choice end, and Mirostat's mu there."""
        return {
            each.token_offset + len(each.token_ids): each.mirostat_mu
            for each in self._events
            if isinstance(each, Delta) and each.choice_index == index
        }

    def _emitted(self, index: int, has: Received) -> Emitted:
        choice = self._choices.get(index) or _Choice()
        mu = choice.start_mu
        if has.num_tokens > choice.start:
            mu = self._ends(index)[has.num_tokens]
        return Emitted(tuple(choice.tokens[: has.num_tokens]), has.is_finished, mu)


def _size_of(event: Delta | Finished) -> int:
    if isinstance(event, Finished):
        return _EVENT_BYTES
    logprobs = sum(1 + len(each.top) for each in event.logprobs)
    tokens = _TOKEN_BYTES * len(event.token_ids)
    return _EVENT_BYTES + len(event.text) + tokens + _LOGPROB_BYTES * logprobs
