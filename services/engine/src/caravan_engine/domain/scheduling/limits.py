"""The bounds that scheduling keeps to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from caravan_engine.domain.errors import ContextLengthExceededError, InvalidFieldError
from caravan_engine.domain.request import EmbeddingRequest, GenerationRequest
from caravan_engine.domain.scheduling.request_queue import DEFAULT_AGEING_S
from caravan_engine.domain.scheduling.side_limits import SideLimits
from caravan_rpckit.errors import FieldViolation


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerLimits:
    """What a worker may promise; fixed when the model is loaded.

    Raises:
        ValueError: if the numbers contradict each other.
    """

    num_seats: int  # sequences that decode together
    num_cells: int  # KV positions for all of them
    context_tokens: int  # most tokens of one sequence, input and output
    token_budget: int  # most tokens in one step
    queue_capacity: int = 1000  # requests that may wait for a seat
    queue_timeout_s: float = 30.0  # and for how long
    ageing_s_per_level: float = DEFAULT_AGEING_S  # of waiting; 0: waiting raises no priority
    client_weights: Mapping[str, float] = field(default_factory=dict)  # see `ClientWeights`
    refuses_late: bool = True  # whether a deadline that can't be met is refused at once
    step_time_s: float = 0.0  # most of a step with prompts while somebody decodes; 0: no bound
    attention_tile: int | None = None  # tokens; see `DecodeFirst`
    side: SideLimits | None = None  # what may be computed apart from the cells; None: nothing
    max_unread_tokens: int = 256  # a sequence whose reader is so far behind pauses
    reader_stall_s: float = 60.0  # and ends after so long
    can_share: bool = True  # whether sequences may have cells in common
    prefetch_lookahead: int = 4  # waiting requests whose pages are read from disk already

    def __post_init__(self) -> None:
        if not 1 <= self.num_seats <= self.token_budget:
            raise ValueError("a step must have room for one token of each seat")
        if not 2 <= self.context_tokens <= self.num_cells:
            raise ValueError("the context of one sequence must fit into the cells")
        if self.max_unread_tokens < 1:
            raise ValueError("a sequence must be allowed to generate before it is read")

    def check_embedding(self, request: EmbeddingRequest) -> None:
        """Refuses what can never fit.

        Raises:
            ContextLengthExceededError: if the input is longer than the context.
        """
        num_tokens = len(request.prompt)
        if num_tokens > self.context_tokens:
            raise ContextLengthExceededError(
                input_tokens=num_tokens, context_tokens=self.context_tokens, has_output=False
            )

    def max_tokens(self, request: GenerationRequest) -> int:
        """Returns the length at which a request's sequences end, input included.

        Several choices divide the cells that the input leaves.

        Raises:
            ContextLengthExceededError: if the input leaves no room for output.
            InvalidFieldError: if there are more choices than seats.
        """
        if request.choice_count > self.num_seats:
            description = f"at most {self.num_seats} here"
            raise InvalidFieldError(FieldViolation("choice_count", description))
        num_prompt, num_shared = len(request.prompt), 0
        if request.choice_count > 1 and self.can_share:
            num_shared = num_prompt - 1
        longest = num_shared + (self.num_cells - num_shared) // request.choice_count
        if num_prompt >= min(self.context_tokens, longest):
            raise ContextLengthExceededError(
                input_tokens=num_prompt, context_tokens=self.context_tokens
            )
        return min(num_prompt + request.max_output_tokens, self.context_tokens, longest)
