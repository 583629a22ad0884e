"""Turns what the scheduler tells of a request into the events of its stream."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from caravan_engine.domain.events import (
    Completed,
    Finished,
    FinishReason,
    Started,
    Timings,
    TokenLogprob,
    TokenLogprobs,
)
from caravan_engine.domain.sampling.logprobs import Logprobs
from caravan_engine.domain.sampling.mirostat import Mirostat
from caravan_engine.domain.sequence import RequestTimes, SequenceGroup
from caravan_engine.domain.sequence import Sequence as TokenSequence
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
        mirostat: Whose mu goes along, if it is used.
        num_written: Tokens that the client has of this choice already.
    """

    def __init__(
        self,
        stream: OutputStream,
        detokenizer: Detokenizer,
        *,
        mark_written: MarkWritten,
        choice_index: int,
        mirostat: Mirostat | None = None,
        num_written: int = 0,
    ) -> None:
        self._stream = stream
        self._detokenizer = detokenizer
        self._mark_written = mark_written
        self._choice_index = choice_index
        self._mirostat = mirostat
        self._num_written = num_written
        self._logprobs: list[TokenLogprobs] = []  # of tokens that are held back
        self._mus: list[float] = []  # after each token that is held back

    @property
    def num_unread(self) -> int:
        """Tokens of the stream that its reader hasn't taken."""
        return self._stream.num_unread

    def append(self, token: int, logprobs: Logprobs | None) -> str | None:
        """Writes what `token` makes certain; returns the stop string that it completes."""
        if logprobs:
            self._logprobs.append(self._spelled(logprobs))
        if self._mirostat:
            self._mus.append(self._mirostat.mu)
        self._write(self._detokenizer.append(token))
        return self._detokenizer.stop_string

    def finish(self, sequence: TokenSequence, reason: FinishReason) -> None:
        """Writes everything held back, and that it is over."""
        self._write(self._detokenizer.flush())
        self._stream.write(
            Finished(self._choice_index, reason, sequence.stop_string, sequence.num_output_tokens)
        )
        self._mark_written(self._stream)

    def _write(self, piece: TextPiece) -> None:
        num_tokens = len(piece.token_ids)
        if num_tokens:
            self._stream.write_text(
                self._choice_index,
                piece,
                self._num_written,
                self._logprobs[:num_tokens],
                self._mus[num_tokens - 1] if self._mus else None,
            )
            del self._logprobs[:num_tokens]
            del self._mus[:num_tokens]
            self._num_written += num_tokens
            self._mark_written(self._stream)

    def _spelled(self, logprobs: Logprobs) -> TokenLogprobs:
        spell = self._detokenizer.spell
        top = (TokenLogprob(token, spell(token), logprob) for token, logprob in logprobs.top)
        return TokenLogprobs(logprobs.chosen, tuple(top))


@dataclass(frozen=True, slots=True)
class EarlierWork:
    """What another worker did of a request, and what its client doesn't know yet."""

    cached_tokens: int | None = None  # that the client was told of
    num_finished_tokens: int = 0  # output of the choices that are over
    untold: Sequence[Finished] = ()  # choices that are over without the client knowing


class GroupWriter:
    """Implements `domain.ports.GroupOutput`; owned by the decode thread.

    Args:
        stream: Where events go.
        mark_written: Called with the stream after each write.
        earlier: What another worker did of the request.
    """

    def __init__(
        self,
        stream: OutputStream,
        *,
        mark_written: MarkWritten,
        earlier: EarlierWork | None = None,
    ) -> None:
        self._stream = stream
        self._mark_written = mark_written
        self._earlier = earlier or EarlierWork()
        self._cached_tokens = 0

    def start(self, group: SequenceGroup, cached_tokens: int) -> None:
        """Tells the reader that computation begins."""
        told = self._earlier.cached_tokens
        self._cached_tokens = cached_tokens if told is None else told
        self._stream.write(Started(group.num_prompt_tokens, self._cached_tokens))
        for finished in self._earlier.untold:
            self._stream.write(finished)
        self._mark_written(self._stream)

    def complete(self, group: SequenceGroup) -> None:
        """Writes what the request used, and ends the stream."""
        self._stream.write(
            Completed(
                group.num_prompt_tokens,
                self._cached_tokens,
                group.num_output_tokens + self._earlier.num_finished_tokens,
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
