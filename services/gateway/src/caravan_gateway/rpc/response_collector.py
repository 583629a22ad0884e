"""Collects the events of a generation into the one answer of `Generate`."""

from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan_gateway.domain.errors import AnswerTooLargeError

_ADVICE = "ask for fewer tokens, choices or log-probabilities, or use StreamGenerate"


class _Collected:
    """One choice so far."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.token_ids: list[int] = []
        self.logprobs: list[generation_pb.TokenLogprobs] = []
        self.finished = generation_pb.Finished()


class ResponseCollector:
    """Takes events in order. Holds at most `max_bytes`, about what a client would receive."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._started = generation_pb.Started()
        self._choices: dict[int, _Collected] = {}
        self._usage = generation_pb.Usage()

    def add(self, event: generation_pb.GenerateEvent) -> None:
        """Takes the next event.

        Raises:
            AnswerTooLargeError: the answer became larger than one response may be.
        """
        match event.WhichOneof("event"):
            case "delta":
                self._add_delta(event.delta)
            case "started":
                self._started = event.started
            case "finished":
                self._choice(event.finished.choice_index).finished = event.finished
            case "completed":
                self._usage = event.completed.usage

    def response(self) -> generation_pb.GenerateResponse:
        """The answer; complete once the last event was `completed`."""
        return generation_pb.GenerateResponse(
            request_id=self._started.request_id,
            model=self._started.model,
            model_digest=self._started.model_digest,
            seed=self._started.seed,
            choices=[
                _choice_to(index, collected) for index, collected in sorted(self._choices.items())
            ],
            usage=self._usage,
        )

    def _add_delta(self, delta: generation_pb.Delta) -> None:
        self._num_bytes += delta.ByteSize()
        if self._num_bytes > self._max_bytes:
            raise AnswerTooLargeError("max_output_tokens", self._max_bytes, _ADVICE)
        choice = self._choice(delta.choice_index)
        choice.texts.append(delta.text)
        choice.token_ids.extend(delta.token_ids)
        choice.logprobs.extend(delta.logprobs)

    def _choice(self, index: int) -> _Collected:
        return self._choices.setdefault(index, _Collected())


def _choice_to(index: int, collected: _Collected) -> generation_pb.Choice:
    choice = generation_pb.Choice(
        index=index,
        text="".join(collected.texts),
        token_ids=collected.token_ids,
        finish_reason=collected.finished.finish_reason,
        logprobs=collected.logprobs,
    )
    if collected.finished.HasField("stop_string"):
        choice.stop_string = collected.finished.stop_string
    return choice
