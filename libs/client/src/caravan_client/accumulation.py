"""Puts the events of a stream together to the answer that a unary call would have given."""

from caravan_client.errors import ErrorDetails, InternalError
from caravan_client.generation import (
    Choice,
    Completed,
    Delta,
    Event,
    Finished,
    Generation,
    Started,
)


class Accumulator:
    """Collects one stream's events, in order. Belongs to whoever reads the stream."""

    def __init__(self) -> None:
        self._started: Started | None = None
        self._deltas: dict[int, list[Delta]] = {}
        self._finished: dict[int, Finished] = {}
        self._completed: Completed | None = None

    def add(self, event: Event) -> None:
        """Takes the next event."""
        match event:
            case Started():
                self._started = event
            case Delta():
                self._deltas.setdefault(event.choice_index, []).append(event)
            case Finished():
                self._finished[event.choice_index] = event
            case Completed():
                self._completed = event

    def text(self, choice_index: int = 0) -> str:
        """What has come of a choice so far."""
        return "".join(delta.text for delta in self._deltas.get(choice_index, ()))

    def result(self) -> Generation:
        """The whole answer.

        Raises:
            InternalError: the stream has not come to its `Completed` event.
        """
        if self._started is None or self._completed is None:
            raise InternalError(
                "the stream has not been completed", ErrorDetails(reason="INVALID_ANSWER")
            )
        return Generation(
            request_id=self._started.request_id,
            model=self._started.model,
            model_digest=self._started.model_digest,
            seed=self._started.seed,
            choices=tuple(self._choice(index) for index in sorted(self._finished)),
            usage=self._completed.usage,
        )

    def _choice(self, index: int) -> Choice:
        finished = self._finished[index]
        return Choice(
            index=index,
            text=self.text(index),
            token_ids=tuple(t for delta in self._deltas.get(index, ()) for t in delta.token_ids),
            finish_reason=finished.finish_reason,
            stop_string=finished.stop_string,
            logprobs=tuple(one for delta in self._deltas.get(index, ()) for one in delta.logprobs),
        )
