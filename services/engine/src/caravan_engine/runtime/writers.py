"""Turns what the scheduler tells of a request into the events of its stream."""

from collections.abc import Callable

from caravan_engine.domain.events import (
    Completed,
    Finished,
    FinishReason,
    Started,
    Timings,
    TokenLogprob,
    TokenLogprobs,
)
from caravan_engine.domain.logprobs import Logprobs
from caravan_engine.domain.sequence import RequestTimes, Sequence, SequenceGroup
from caravan_engine.runtime.detokenizer import Detokenizer, TextPiece
from caravan_engine.runtime.output_stream import OutputStream
from caravan_rpckit.errors import CaravanError

MarkWritten = Callable[[OutputStream], None]


class SequenceWriter:
    """Implements `domain.ports.SequenceOutput`; owned by the decode thread.

    Args:
        stream: Where events go, those of other choices too.
        detokenizer: Makes text of tokens.
        mark_written: Called with the stream after each write.
        choice_index: Which of the request's choices it writes.
    """

    def __init__(
        self,
        stream: OutputStream,
        detokenizer: Detokenizer,
        *,
        mark_written: MarkWritten,
        choice_index: int,
    ) -> None:
        self._stream = stream
        self._detokenizer = detokenizer
        self._mark_written = mark_written
        self._choice_index = choice_index
        self._num_written = 0
        self._logprobs: list[TokenLogprobs] = []  # of tokens that are held back

    @property
    def num_unread(self) -> int:
        """Tokens of the stream that its reader hasn't taken."""
        return self._stream.num_unread

    def append(self, token: int, logprobs: Logprobs | None) -> str | None:
        """Writes what `token` makes certain; returns the stop string that it completes."""
        if logprobs:
            self._logprobs.append(self._spelled(logprobs))
        self._write(self._detokenizer.append(token))
        return self._detokenizer.stop_string

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """Writes everything held back, and that it is over."""
        self._write(self._detokenizer.flush())
        self._stream.write(
            Finished(self._choice_index, reason, sequence.stop_string, sequence.num_output_tokens)
        )
        self._mark_written(self._stream)

    def _write(self, piece: TextPiece) -> None:
        num_tokens = len(piece.token_ids)
        if num_tokens:
            logprobs = self._logprobs[:num_tokens]
            self._stream.write_text(self._choice_index, piece, self._num_written, logprobs)
            del self._logprobs[:num_tokens]
            self._num_written += num_tokens
            self._mark_written(self._stream)

    def _spelled(self, logprobs: Logprobs) -> TokenLogprobs:
        spell = self._detokenizer.spell
        top = (TokenLogprob(token, spell(token), logprob) for token, logprob in logprobs.top)
        return TokenLogprobs(logprobs.chosen, tuple(top))


class GroupWriter:
    """Implements `domain.ports.GroupOutput`; owned by the decode thread."""

    def __init__(self, stream: OutputStream, *, mark_written: MarkWritten) -> None:
        self._stream = stream
        self._mark_written = mark_written
        self._cached_tokens = 0

    def start(self, group: SequenceGroup, cached_tokens: int) -> None:
        """Tells the reader that computation begins."""
        self._cached_tokens = cached_tokens
        self._stream.write(Started(group.num_prompt_tokens, cached_tokens))
        self._mark_written(self._stream)

    def complete(self, group: SequenceGroup) -> None:
        """Writes what the request used, and ends the stream."""
        self._stream.write(
            Completed(
                group.num_prompt_tokens,
                self._cached_tokens,
                group.num_output_tokens,
                _timings(group.times),
            )
        )
        self._stream.end()
        self._mark_written(self._stream)

    def fail(self, error: CaravanError) -> None:
        """Ends the stream with `error`."""
        self._stream.end(error)
        self._mark_written(self._stream)


def _timings(times: RequestTimes) -> Timings:
    started = times.arrived if times.started is None else times.started
    first = started if times.first_token is None else times.first_token
    last = first if times.last_token is None else times.last_token
    return Timings(started - times.arrived, first - started, last - first)
