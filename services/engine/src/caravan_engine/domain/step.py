"""The values between the three verbs: what schedule decides, and what run has to say."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from caravan_engine.domain.kv_numbers import MoveTimes
from caravan_engine.domain.paging.moves import Import, Move
from caravan_engine.domain.paging.page_image import PageImage
from caravan_engine.domain.pooling import Pooler
from caravan_engine.domain.sampling.logprobs import Logprobs
from caravan_engine.domain.sampling.token_sampler import TokenSampler


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one sequence to compute in a step.

    `tokens` begin at position `start`. Only a chunk that reaches the end of its history has a
    `sampler`, which then chooses the token after it; `num_top_logprobs` asks for its probability.
    """

    seq_id: int
    start: int
    tokens: tuple[int, ...]
    sampler: TokenSampler | None
    num_top_logprobs: int | None = None
    pooler: Pooler | None = None  # takes the vectors of the tokens; then there is no sampler

    @property
    def end(self) -> int:
        """Position after the last token."""
        return self.start + len(self.tokens)

    @property
    def is_decode(self) -> bool:
        """Whether it is the last token of a history, after which another one is chosen."""
        return self.sampler is not None and len(self.tokens) == 1


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step: `moves` in order, then `chunks` computed together.

    Those of a plan that is `aside` may be computed apart from what is in the cells, and be put
    there afterwards; all of them are beginnings.
    """

    moves: tuple[Move, ...] = ()
    chunks: tuple[Chunk, ...] = ()
    is_aside: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.moves or self.chunks)

    @property
    def is_embedding(self) -> bool:
        """Whether vectors are wanted instead of logits; a plan is for one or the other."""
        return bool(self.chunks) and self.chunks[0].pooler is not None

    @property
    def num_tokens(self) -> int:
        """Size of the batch."""
        return sum(len(chunk.tokens) for chunk in self.chunks)

    def sampling(self) -> Iterator[tuple[Chunk, TokenSampler]]:
        """Yields the chunks that sample, in the order of their rows of logits."""
        for chunk in self.chunks:
            if chunk.sampler is not None:
                yield chunk, chunk.sampler


@dataclass(frozen=True, slots=True)
class StepResult:
    """What came of a plan.

    `failure_code` says that nothing was computed; what the batch's sequences have in memory is
    then unknown. `failed_imports` were damaged or refused: what follows them in their sequences
    is missing, and nothing was computed either. `unusable` are sequences whose logits were NaN.
    """

    plan: StepPlan
    tokens: Mapping[int, int] = field(default_factory=dict)  # sequence id -> chosen token
    logprobs: Mapping[int, Logprobs] = field(default_factory=dict)  # of those that asked
    unusable: frozenset[int] = frozenset()
    failure_code: int | None = None
    images: tuple[PageImage, ...] = ()  # one for each export
    failed_imports: tuple[Import, ...] = ()
    decode_s: float = 0.0
    sample_s: float = 0.0
    move_times: MoveTimes = field(default_factory=MoveTimes)

    @property
    def is_computed(self) -> bool:
        """Whether the chunks of the plan are in memory now."""
        return not self.failed_imports and self.failure_code is None
