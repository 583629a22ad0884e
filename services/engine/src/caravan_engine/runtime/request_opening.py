"""Makes of a request what the scheduler runs and what its caller reads."""

from collections.abc import Callable

from caravan_engine.domain.ports import Backend
from caravan_engine.domain.request import GenerationRequest, check_logit_bias
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.domain.sequence import Sequence, SequenceGroup
from caravan_engine.runtime.detokenizer import Detokenizer
from caravan_engine.runtime.output_stream import EventPacer, OutputStream
from caravan_engine.runtime.request_sampler import make_sampler
from caravan_engine.runtime.resumption import resume
from caravan_engine.runtime.writers import GroupWriter, SequenceWriter


class RequestOpening:
    """Usable from any thread.

    Args:
        backend: Has the vocabulary.
        limits: What may be promised.
        pacer: How far apart a stream's events are.
        on_read: Called with the number of tokens that a reader took.
        on_close: Called with the request whose reader leaves.
        mark_written: Called by the decode thread with a stream that has news.
    """

    def __init__(
        self,
        backend: Backend,
        limits: SchedulerLimits,
        pacer: EventPacer,
        *,
        on_read: Callable[[int], None],
        on_close: Callable[[SequenceGroup], None],
        mark_written: Callable[[OutputStream], None],
    ) -> None:
        self._backend = backend
        self._limits = limits
        self._pacer = pacer
        self._on_read = on_read
        self._on_close = on_close
        self._mark_written = mark_written

    def open(self, request: GenerationRequest, now: float) -> tuple[SequenceGroup, OutputStream]:
        """Returns the choices that are to be generated, and the stream of their events.

        Raises:
            CaravanError: it can't be served; see `EngineLoop.submit`.
        """
        max_tokens = self._limits.max_tokens(request)
        check_logit_bias(request.sampling, self._backend.vocabulary)
        resumption = resume(request, self._backend.vocabulary, max_tokens)
        stream = OutputStream(
            self._pacer, on_read=self._on_read, on_close=lambda: self._on_close(group)
        )
        group = SequenceGroup(
            request,
            [
                self._sequence(request, choice_index, max_tokens, stream, detokenizer)
                for choice_index, detokenizer in resumption.detokenizers.items()
            ],
            output=GroupWriter(stream, mark_written=self._mark_written, earlier=resumption.earlier),
            arrived=now,
        )
        return group, stream

    def _sequence(
        self,
        request: GenerationRequest,
        choice_index: int,
        max_tokens: int,
        stream: OutputStream,
        detokenizer: Detokenizer,
    ) -> Sequence:
        sampler = make_sampler(request, choice_index, self._backend)
        emitted = request.emitted(choice_index).tokens
        writer = SequenceWriter(
            stream,
            detokenizer,
            mark_written=self._mark_written,
            choice_index=choice_index,
            mirostat=sampler.mirostat,
            num_written=len(emitted),
        )
        return Sequence(
            request,
            max_tokens=max_tokens,
            work=sampler,
            output=writer,
            choice_index=choice_index,
            num_top_logprobs=request.num_top_logprobs,
            emitted=emitted,
        )
