"""Lays the spans of a trace out under each other, each with its bar. Prints nothing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from caravan_client.cli.terminal_text import one_line
from caravan_client.resources import Span, SpanKind, SpanStatus, Trace

if TYPE_CHECKING:
    from rich.table import Table

BAR_WIDTH = 40
_FIRST_TOKEN_EVENT = "first_token"  # noqa: S105 (no password)
_COLORS = ("cyan", "green", "yellow", "magenta", "blue")


@dataclass(frozen=True, slots=True)
class Row:
    """One span: how deep it stands, and where its bar is, in columns."""

    span: Span
    depth: int
    start: int
    length: int

    @property
    def bar(self) -> str:
        """The bar with the space before it."""
        return " " * self.start + "█" * self.length

    @property
    def work(self) -> str:
        """What was done, without the package of a method; an arrow marks a call that was made."""
        name = one_line(self.span.name)
        if "/" in name:
            name = name.rpartition(".")[2]
        return ("→ " if self.span.kind is SpanKind.CLIENT else "") + name

    @property
    def outcome(self) -> str:
        """Why it failed; empty where it did not."""
        failed = "error" if self.span.status is SpanStatus.ERROR else ""
        return one_line(self.span.attributes.get("error.type", failed))


def rows(trace: Trace, width: int = BAR_WIDTH) -> list[Row]:
    """Each span under the one that it is a part of, in the order of their starts."""
    spans = [span for span in trace.spans if span.start_time is not None]
    if not spans:
        return []
    begin, end = _extent(spans)
    scale = width / max((end - begin) / timedelta(milliseconds=1), 0.001)
    within: dict[tuple[str, str], list[Span]] = {}
    for span in spans:
        within.setdefault((span.trace_id, span.parent_span_id), []).append(span)
    result: list[Row] = []
    waiting = [(span, 0) for span in reversed(_roots(spans))]
    while waiting:
        span, depth = waiting.pop()
        offset = (_start_of(span) - begin) / timedelta(milliseconds=1)
        start = min(int(offset * scale), width - 1)
        length = min(max(1, round(span.duration_ms * scale)), width - start)
        result.append(Row(span, depth, start, length))
        children = within.get((span.trace_id, span.span_id), ())
        waiting += [(child, depth + 1) for child in reversed(children)]
    return result


def summary(trace: Trace) -> str:
    """One line about the whole."""
    spans = [span for span in trace.spans if span.start_time is not None]
    if not spans:
        return f"request {trace.request_id}"
    begin, end = _extent(spans)
    total = (end - begin) / timedelta(milliseconds=1)
    parts = [
        f"request {trace.request_id}",
        *(f"trace {trace_id}" for trace_id in dict.fromkeys(span.trace_id for span in spans)),
        f"{len(trace.spans)} spans",
        duration_text(total),
    ]
    moments = [
        event.time
        for span in spans
        for event in span.events
        if event.name == _FIRST_TOKEN_EVENT and event.time is not None
    ]
    if moments:
        after = (max(moments) - begin) / timedelta(milliseconds=1)
        parts.append(f"first token after {duration_text(after)}")
    return ", ".join(parts)


def table(trace: Trace) -> "Table":
    """The waterfall as rich draws it."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    drawn.add_column("SERVICE", no_wrap=True)
    drawn.add_column("WORK", no_wrap=True, overflow="ellipsis")
    drawn.add_column("", width=BAR_WIDTH, no_wrap=True)
    drawn.add_column("TIME", justify="right", no_wrap=True)
    drawn.add_column("ERROR", no_wrap=True)
    laid_out = rows(trace)
    services = list(dict.fromkeys(row.span.service for row in laid_out))
    for row in laid_out:
        color = _COLORS[services.index(row.span.service) % len(_COLORS)]
        drawn.add_row(
            Text(one_line(row.span.service), style=color),
            Text("  " * row.depth + row.work),
            Text(row.bar, style="red" if row.outcome else color),
            Text(duration_text(row.span.duration_ms)),
            Text(row.outcome, style="red"),
        )
    return drawn


def duration_text(duration_ms: float) -> str:
    """A duration in the unit that suits."""
    if duration_ms < 1:
        return f"{duration_ms * 1000:.0f} µs"
    if duration_ms < 1000:
        return f"{duration_ms:.1f} ms"
    return f"{duration_ms / 1000:.2f} s"


def _roots(spans: Sequence[Span]) -> list[Span]:
    present = {(span.trace_id, span.span_id) for span in spans}
    return [span for span in spans if (span.trace_id, span.parent_span_id) not in present]


def _extent(spans: Sequence[Span]) -> tuple[datetime, datetime]:
    ends = [_start_of(span) + timedelta(milliseconds=span.duration_ms) for span in spans]
    return min(_start_of(span) for span in spans), max(ends)


def _start_of(span: Span) -> datetime:
    if span.start_time is None:
        raise ValueError("a span without a start has no place in a waterfall")
    return span.start_time
