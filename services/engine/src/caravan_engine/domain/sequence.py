"""One token stream being decoded."""

from dataclasses import dataclass

from caravan_engine.domain.ports import SequenceOutput
from caravan_engine.domain.request import GenerationRequest
from caravan_engine.domain.token_sampler import TokenSampler


@dataclass(slots=True)
class SequenceTimes:
    """Moments of a sequence's life on the engine's monotonic clock."""

    arrived: float
    started: float | None = None  # got its seat
    first_token: float | None = None
    last_token: float | None = None


class Sequence:
    """A token history and how much of it is in the KV cells. Owned by the decode thread.

    All that generation depends on is `tokens`, the request's seed and `choice_index`; the sampler
    and the output only follow the history. So to replay a sequence is to set `num_computed` to 0:

        0 ........ num_computed ........ len(tokens)
        in cells                to compute

    Args:
        request: The call it belongs to.
        max_tokens: Length at which it ends, prompt included.
        sampler: Chooses its tokens.
        output: Where its tokens go.
        arrived: When the request came in.
        choice_index: Which of the request's choices it is.
    """

    __slots__ = (
        "choice_index",
        "max_tokens",
        "num_computed",
        "num_failures",
        "output",
        "paused_since",
        "request",
        "sampler",
        "seat",
        "stop_string",
        "times",
        "tokens",
    )

    def __init__(
        self,
        request: GenerationRequest,
        *,
        max_tokens: int,
        sampler: TokenSampler,
        output: SequenceOutput,
        arrived: float,
        choice_index: int = 0,
    ) -> None:
        self.request = request
        self.choice_index = choice_index
        self.tokens = list(request.prompt)
        self.max_tokens = max_tokens
        self.sampler = sampler
        self.output = output
        self.times = SequenceTimes(arrived)
        self.num_computed = 0
        self.num_failures = 0  # failed steps since it last got a token
        self.seat: int | None = None
        self.paused_since: float | None = None
        self.stop_string: str | None = None

    @property
    def num_prompt_tokens(self) -> int:
        """Length of the input."""
        return len(self.request.prompt)

    @property
    def num_output_tokens(self) -> int:
        """Generated tokens, without an end-of-generation token."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def num_pending(self) -> int:
        """Tokens to compute before the next one can be chosen."""
        return len(self.tokens) - self.num_computed

    def append(self, token: int, now: float) -> None:
        """Takes the next token."""
        self.tokens.append(token)
        self.sampler.accept(token)
        self.num_failures = 0
        if self.times.first_token is None:
            self.times.first_token = now
        self.times.last_token = now
