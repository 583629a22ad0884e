"""The requests that are live by what was recorded of them. Pure bookkeeping, no files."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

from caravan_engine.domain.recovery.records import (
    ChoiceFinished,
    ComputationBegan,
    Handle,
    Record,
    RequestBegan,
    RequestEnded,
    TokensLeft,
)

_BYTES_PER_TOKEN = 4
_BYTES_PER_MU = 40  # a record of its own
_BYTES_BESIDE = 1024  # of a request: frames and numbers, for sixteen choices


class UnexpectedRecordError(Exception):
    """A record doesn't follow from those before it."""


def cost_of(record: Record) -> int:
    """Returns by how much a record makes the account of its request longer."""
    match record:
        case RequestBegan():
            return _BYTES_BESIDE + len(record.request)
        case TokensLeft():
            has_mu = record.mirostat_mu is not None
            return len(record.tokens) * _BYTES_PER_TOKEN + has_mu * _BYTES_PER_MU
        case _:
            return 0


def _no_tokens() -> "array[int]":
    return array("i")


@dataclass(slots=True)
class LiveChoice:
    """What left of one choice. `mus` are those after so many tokens, where there are any."""

    tokens: "array[int]" = field(default_factory=_no_tokens)
    mus: dict[int, float] = field(default_factory=dict)
    is_finished: bool = False


@dataclass(slots=True)
class LiveRequest:
    """A request that has begun and not ended."""

    began: RequestBegan
    cached_tokens: int | None = None  # None: it waits for its seat
    choices: dict[int, LiveChoice] = field(default_factory=dict)

    @property
    def num_tokens(self) -> int:
        """Tokens of all choices that left."""
        return sum(len(choice.tokens) for choice in self.choices.values())

    def records(self) -> Iterator[Record]:
        """Yields the shortest account of it."""
        handle = self.began.handle
        yield self.began
        if self.cached_tokens is not None:
            yield ComputationBegan(handle, self.cached_tokens)
        for index, choice in self.choices.items():
            yield from _parts(handle, index, choice)
            if choice.is_finished:
                yield ChoiceFinished(handle, index)


def _parts(handle: Handle, index: int, choice: LiveChoice) -> Iterator[Record]:
    """Cuts where a mu is known, since a record tells the one after its last token."""
    at = 0
    for end in sorted({*choice.mus, len(choice.tokens)}):
        if end > at:
            yield TokensLeft(handle, index, at, tuple(choice.tokens[at:end]), choice.mus.get(end))
            at = end


class LiveRequests:
    """Follows records. Not safe for several threads."""

    def __init__(self) -> None:
        self._requests: dict[Handle, LiveRequest] = {}
        self.num_bytes = 0  # at least what the shortest account of them all takes

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[LiveRequest]:
        """The requests in the order of their arrival."""
        return iter(self._requests.values())

    def get(self, handle: Handle) -> LiveRequest | None:
        """Returns a request that is live."""
        return self._requests.get(handle)

    def apply(self, record: Record) -> None:
        """Takes a record in.

        Raises:
            UnexpectedRecordError: it doesn't follow; nothing changed.
        """
        match record:
            case RequestBegan():
                self._begin(record)
            case ComputationBegan(handle, cached_tokens):
                self._live(handle).cached_tokens = cached_tokens
            case TokensLeft():
                self._extend(record)
            case ChoiceFinished(handle, index):
                self._open_choice(handle, index).is_finished = True
            case RequestEnded(handle):
                self._end(handle)

    def _begin(self, record: RequestBegan) -> None:
        if self._requests and record.handle <= next(reversed(self._requests)):
            raise UnexpectedRecordError("requests begin in the order of their handles")
        self._requests[record.handle] = LiveRequest(record)
        self.num_bytes += cost_of(record)

    def _extend(self, record: TokensLeft) -> None:
        choice = self._open_choice(record.handle, record.choice_index)
        if record.offset != len(choice.tokens):
            raise UnexpectedRecordError("tokens are missing, or came twice")
        choice.tokens.extend(record.tokens)
        if record.mirostat_mu is not None:
            choice.mus[len(choice.tokens)] = record.mirostat_mu
        self.num_bytes += cost_of(record)

    def _end(self, handle: Handle) -> None:
        request = self._live(handle)
        del self._requests[handle]
        num_mus = sum(len(choice.mus) for choice in request.choices.values())
        self.num_bytes -= cost_of(request.began)
        self.num_bytes -= request.num_tokens * _BYTES_PER_TOKEN + num_mus * _BYTES_PER_MU

    def _live(self, handle: Handle) -> LiveRequest:
        request = self._requests.get(handle)
        if request is None:
            raise UnexpectedRecordError("of a request that isn't live")
        return request

    def _open_choice(self, handle: Handle, index: int) -> LiveChoice:
        choice = self._live(handle).choices.setdefault(index, LiveChoice())
        if choice.is_finished:
            raise UnexpectedRecordError("a choice went on after its end")
        return choice
