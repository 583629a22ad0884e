"""Token streams being decoded, and the request whose choices they are."""

from collections.abc import Sequence as Items
from dataclasses import dataclass

from caravan_engine.domain.pooling import Pooler
from caravan_engine.domain.ports import GroupOutput, SequenceOutput
from caravan_engine.domain.request import QueuedRequest
from caravan_engine.domain.step import SharedPrefix
from caravan_engine.domain.token_sampler import TokenSampler


@dataclass(slots=True)
class RequestTimes:
    """Moments of a request's life on the engine's monotonic clock."""

    arrived: float
    started: float | None = None  # got its seats
    first_token: float | None = None  # of any choice
    last_token: float | None = None


class Sequence:
    """A token history and how much of it is in the KV cells. Owned by the decode thread.

    All that generation depends on is `tokens`, the request's seed, `choice_index` and the mu of
    Mirostat; the rest of the sampler and the output only follow the history. So to replay a
    sequence is to set `num_computed` to 0:

        0 ........ num_computed ........ len(tokens)
        in cells                to compute

    Args:
        request: The call it belongs to.
        max_tokens: Length at which it ends, prompt included.
        work: Chooses its tokens, or makes one vector of those it has.
        output: Where its tokens go.
        choice_index: Which of the request's choices it is.
        num_top_logprobs: How many log-probabilities to name beside each token's; None: no such.
    """

    __slots__ = (
        "choice_index",
        "first_token_at",
        "group",
        "last_token_at",
        "max_tokens",
        "num_computed",
        "num_failures",
        "num_top_logprobs",
        "output",
        "paused_since",
        "request",
        "seat",
        "stop_string",
        "tokens",
        "work",
    )

    group: "SequenceGroup"  # which sets it

    def __init__(
        self,
        request: QueuedRequest,
        *,
        max_tokens: int,
        work: TokenSampler | Pooler,
        output: SequenceOutput,
        choice_index: int = 0,
        num_top_logprobs: int | None = None,
    ) -> None:
        self.request = request
        self.choice_index = choice_index
        self.tokens = list(request.prompt)
        self.max_tokens = max_tokens
        self.work = work
        self.num_top_logprobs = num_top_logprobs
        self.output = output
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None
        self.num_computed = 0
        self.num_failures = 0  # failed steps since it last got a token
        self.seat: int | None = None
        self.paused_since: float | None = None
        self.stop_string: str | None = None

    @property
    def num_output_tokens(self) -> int:
        """Generated tokens, without an end-of-generation token."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def goal(self) -> int:
        """Position up to which it may be computed now: its end, or that of what it shares."""
        num_shared = self.group.num_shared
        return num_shared if self.num_computed < num_shared else len(self.tokens)

    @property
    def num_pending(self) -> int:
        """Tokens that may be computed now."""
        return self.goal - self.num_computed

    def append(self, token: int, now: float) -> None:
        """Takes the next token."""
        self.tokens.append(token)
        if isinstance(self.work, TokenSampler):
            self.work.accept(token)
        self.num_failures = 0
        self.first_token_at = self.first_token_at or now
        self.last_token_at = now
        times = self.group.times
        times.first_token = times.first_token or now
        times.last_token = now


class SequenceGroup:
    """The choices of one request: they wait, are seated and fail together.

    Owned by the decode thread. What they have in memory of the prompt is the same, but for its
    last token, with which each goes its own way:

        cells    | prompt, once | last token, output |
                                | last token, output |

    One of them computes the shared part; the others wait, and are then given it. The obvious way,
    to share the whole prompt, needs several draws from one row of logits; this one costs a token
    per choice, all in one step. A single choice shares nothing.

    Args:
        request: The call.
        sequences: Its choices, at least one; their `group` becomes this one.
        output: Where events of the whole request go.
        arrived: When the request came in.
    """

    def __init__(
        self,
        request: QueuedRequest,
        sequences: Items[Sequence],
        *,
        output: GroupOutput,
        arrived: float,
    ) -> None:
        self.request = request
        self.sequences = tuple(sequences)
        self.live = list(sequences)  # those that aren't over
        self.output = output
        self.times = RequestTimes(arrived)
        self.num_shared = request.num_shared_tokens
        for sequence in self.sequences:
            sequence.group = self

    @property
    def num_prompt_tokens(self) -> int:
        """Length of the input."""
        return len(self.request.prompt)

    @property
    def num_output_tokens(self) -> int:
        """Generated tokens of all choices."""
        return sum(sequence.num_output_tokens for sequence in self.sequences)

    @property
    def num_cells(self) -> int:
        """Cells that it needs at most."""
        return self.num_shared + sum(map(self.num_own_cells, self.sequences))

    @property
    def num_used_cells(self) -> int:
        """Cells that hold something now."""
        computed = [sequence.num_computed for sequence in self.live]
        own = sum(max(0, each - self.num_shared) for each in computed)
        return own + min(max(computed, default=0), self.num_shared)

    def num_own_cells(self, sequence: Sequence) -> int:
        """Cells that one of its sequences needs beside the shared ones."""
        return sequence.max_tokens - self.num_shared

    def lets_run(self, sequence: Sequence) -> bool:
        """Whether a sequence has the shared part, or is the one to compute it."""
        if sequence.num_computed >= self.num_shared:
            return True
        return sequence is max(self.live, key=lambda each: each.num_computed)

    def prefix_for(self, sequence: Sequence) -> SharedPrefix | None:
        """Returns what a sequence can be given now, and counts it as computed."""
        if sequence.num_computed >= self.num_shared:
            return None
        source = next((each for each in self.live if each.num_computed >= self.num_shared), None)
        if source is None or source.seat is None or sequence.seat is None:
            return None
        sequence.num_computed = self.num_shared
        return SharedPrefix(source.seat, sequence.seat, self.num_shared)
