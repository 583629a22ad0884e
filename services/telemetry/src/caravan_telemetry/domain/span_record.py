"""A span as it is kept, and what is kept of a call's trace when it is read."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

MAX_BATCH_SPANS = 5_000
MAX_TRACE_SPANS = 1_000
MAX_TRACES = 20
MAX_REQUEST_ID_LENGTH = 128
_MAX_NAME_LENGTH = 256
_MAX_ATTRIBUTES = 64
_MAX_EVENTS = 64
_MAX_VALUE_LENGTH = 1_024
_MAX_TIME_NS = 2**63 - 1


class SpanKind(StrEnum):
    """Which side of a call between processes a span is."""

    OTHER = "other"
    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


class SpanStatus(StrEnum):
    """How the work ended."""

    UNSET = "unset"
    OK = "ok"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class SpanMoment:
    """Something that happened within a span; nanoseconds since 1970."""

    name: str
    time_ns: int


@dataclass(frozen=True, slots=True)
class SpanRecord:
    """One stretch of work. Ids are hexadecimal, an empty one is none; times are nanoseconds.

    `request_id` is that of the call which the span served, or empty.
    """

    trace_id: str
    span_id: str
    parent_span_id: str
    request_id: str
    service: str
    name: str
    kind: SpanKind
    start_ns: int
    duration_ns: int
    status: SpanStatus
    attributes: Mapping[str, str]
    events: tuple[SpanMoment, ...]

    @property
    def is_sound(self) -> bool:
        """Whether it can be kept: it has its ids, and times that make sense."""
        return (
            bool(self.trace_id.strip("0") and self.span_id.strip("0"))
            and 0 < self.start_ns <= _MAX_TIME_NS
            and 0 <= self.duration_ns <= _MAX_TIME_NS
        )


@dataclass(frozen=True, slots=True)
class Trace:
    """The spans of a call, by their start."""

    spans: tuple[SpanRecord, ...]
    truncated: bool


def bounded_text(text: str) -> str:
    """A name as it is kept."""
    return text[:_MAX_NAME_LENGTH]


def bounded_attributes(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Attributes as they are kept: not too many, and none too long."""
    bounded: dict[str, str] = {}
    for key, value in pairs:
        if len(bounded) >= _MAX_ATTRIBUTES:
            break
        bounded[bounded_text(key)] = value[:_MAX_VALUE_LENGTH]
    return bounded


def bounded_events(events: Sequence[SpanMoment]) -> tuple[SpanMoment, ...]:
    """Events as they are kept."""
    return tuple(SpanMoment(bounded_text(e.name), e.time_ns) for e in events[:_MAX_EVENTS])


def trace_of(request_id: str, spans: Iterable[SpanRecord], *, most: int = MAX_TRACE_SPANS) -> Trace:
    """The spans that served `request_id`, and all that was done within them.

    A trace may hold more calls than this one: a client's trace goes through all of its calls.
    """
    ordered = sorted(spans, key=lambda span: (span.start_ns, span.span_id))
    within: dict[tuple[str, str], list[SpanRecord]] = {}
    for span in ordered:
        within.setdefault((span.trace_id, span.parent_span_id), []).append(span)
    found: dict[tuple[str, str], SpanRecord] = {}
    waiting = [span for span in ordered if span.request_id == request_id]
    while waiting:
        span = waiting.pop()
        key = (span.trace_id, span.span_id)
        if key not in found:  # each once, also where parents go round in a circle
            found[key] = span
            waiting.extend(within.get(key, ()))
    chosen = [span for span in ordered if (span.trace_id, span.span_id) in found]
    return Trace(tuple(chosen[:most]), truncated=len(chosen) > most)
