"""Prints answers of a model, streamed or whole."""

import time
from itertools import chain

from caravan_client.cli.json_text import event_json
from caravan_client.cli.output import Output
from caravan_client.generation import Delta, Event, FinishReason, Generation
from caravan_client.sync_transport import GenerationStream


class Stopwatch:
    """Times a generation for `--stats`."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._first: float | None = None

    def saw(self, event: Event) -> None:
        """Notes when the first text came."""
        if self._first is None and isinstance(event, Delta):
            self._first = time.monotonic()

    def report(self, generation: Generation) -> str:
        """One line about what ran."""
        now = time.monotonic()
        usage = generation.usage
        parts = [
            f"model {generation.model}",
            f"seed {generation.seed}",
            f"{usage.input_tokens} tokens in ({usage.cached_tokens} cached)",
            f"{usage.output_tokens} out",
            f"{now - self._started:.2f} s",
        ]
        if self._first is not None:
            parts.append(f"first text after {self._first - self._started:.2f} s")
            if usage.output_tokens > 1 and now > self._first:
                parts.append(f"{(usage.output_tokens - 1) / (now - self._first):.1f} tokens/s")
        return ", ".join([*parts, f"request {generation.request_id}"])


def print_stream(stream: GenerationStream, output: Output, *, stats: bool) -> None:
    """Prints an answer as it comes; in JSON each event on a line.

    However it ends, an open line is closed and the call is over.
    """
    watch = Stopwatch()
    with stream:
        try:
            for event in _after_waiting(stream, output):
                watch.saw(event)
                if output.as_json:
                    output.line(event_json(event))
                elif isinstance(event, Delta) and event.choice_index == 0:
                    output.text(event.text)
        except BrokenPipeError:
            raise
        except BaseException:  # also an interrupt: what follows begins on a line of its own
            output.end_line()
            raise
        output.end_line()
        _conclude(stream.generation, watch, output, stats=stats)


def print_whole(generation: Generation, watch: Stopwatch, output: Output, *, stats: bool) -> None:
    """Prints an answer that is there as a whole."""
    if output.as_json:
        output.document(generation)
    else:
        _print_choices(generation, output)
    _conclude(generation, watch, output, stats=stats)


def _print_choices(generation: Generation, output: Output) -> None:
    """One text as it is; several under headings."""
    for choice in generation.choices:
        if len(generation.choices) > 1:
            output.line(f"--- choice {choice.index + 1} ---")
        output.text(choice.text)
        output.end_line()


def _after_waiting(stream: GenerationStream, output: Output) -> "chain[Event]":
    """The events, once the first one with something to print is there."""
    early: list[Event] = []
    if not output.as_json:
        with output.waiting("…"):
            for event in stream:
                early.append(event)
                if isinstance(event, Delta):
                    break
    return chain(early, stream)


def _conclude(generation: Generation, watch: Stopwatch, output: Output, *, stats: bool) -> None:
    if stats:
        output.note(watch.report(generation))
    if generation.finish_reason is FinishReason.LENGTH:
        output.hint(
            f"(cut off after {generation.usage.output_tokens} tokens; "
            "--max-output-tokens gives it more)"
        )
    elif generation.finish_reason is FinishReason.CONTENT_FILTER:
        output.hint("(ended by a content filter)")
