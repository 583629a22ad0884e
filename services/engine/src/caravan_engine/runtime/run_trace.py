"""The spans of one request in the worker: waiting, prefill and decoding, inside its call's span.

Made when the request is over, so that nothing is paid per token.
"""

import time
from collections.abc import Callable

from opentelemetry.trace import Span, Tracer, set_span_in_context

from caravan_engine.domain.events import Completed, Delta, Event, Started
from caravan_obskit import genai

_NS_PER_S = 1_000_000_000


class RunTrace:
    """Watches a request's events go by. Belongs to the call's task; use it around them.

    Args:
        tracer: Makes the spans.
        call_span: What they are inside of.
        now_ns: Nanoseconds since 1970.
    """

    def __init__(
        self, tracer: Tracer, call_span: Span, *, now_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._tracer = tracer
        self._call_span = call_span
        self._now_ns = now_ns
        self._arrived_ns = now_ns()
        self._started_ns: int | None = None
        self._first_token_ns: int | None = None
        self._started: Started | None = None
        self._completed: Completed | None = None

    def saw(self, event: Event) -> None:
        """Notes what an event tells about time."""
        match event:
            case Delta():
                if self._first_token_ns is None:
                    self._first_token_ns = self._now_ns()
            case Started():
                self._started, self._started_ns = event, self._now_ns()
            case Completed():
                self._completed = event

    def end(self) -> None:
        """Makes the spans; of a request that ended early those that it came to."""
        if not self._call_span.is_recording():
            return
        ended_ns = self._now_ns()
        started_ns, first_ns, last_ns = self._moments()
        self._span("queue", self._arrived_ns, started_ns or ended_ns)
        if started_ns is not None:
            self._span("prefill", started_ns, first_ns or ended_ns, self._input_facts())
        if first_ns is not None:
            self._call_span.add_event(genai.FIRST_TOKEN_EVENT, timestamp=first_ns)
            self._span("decode", first_ns, last_ns or ended_ns, self._output_facts())

    def _moments(self) -> tuple[int | None, int | None, int | None]:
        """Start, first and last token: as the decode thread measured, else as they were seen."""
        if self._completed is None:
            return self._started_ns, self._first_token_ns, None
        timings = self._completed.timings
        started_ns = self._arrived_ns + round(timings.queue_s * _NS_PER_S)
        first_ns = started_ns + round(timings.prefill_s * _NS_PER_S)
        return started_ns, first_ns, first_ns + round(timings.decode_s * _NS_PER_S)

    def _span(
        self, name: str, start_ns: int, end_ns: int, attributes: dict[str, int] | None = None
    ) -> None:
        inside = set_span_in_context(self._call_span)
        span = self._tracer.start_span(name, inside, attributes=attributes, start_time=start_ns)
        span.end(max(start_ns, end_ns))

    def _input_facts(self) -> dict[str, int]:
        if self._started is None:
            return {}
        return {
            genai.USAGE_INPUT_TOKENS: self._started.input_tokens,
            genai.USAGE_CACHED_TOKENS: self._started.cached_tokens,
        }

    def _output_facts(self) -> dict[str, int]:
        if self._completed is None:
            return {}
        return {genai.USAGE_OUTPUT_TOKENS: self._completed.output_tokens}
