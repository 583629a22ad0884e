"""Which steps are worth a context of their own."""

from collections.abc import Sequence
from dataclasses import dataclass

from caravan_engine.domain.step import Chunk


@dataclass(frozen=True, slots=True)
class SideLimits:
    """What fits into a backend's side context, which is empty before and after each step.

    From `least_others` cells of others on it pays. What is computed aside has to be moved once,
    which takes a model of 0.5B 6 µs a token; to pass over 256 cells of others takes it 20.
    """

    num_tokens: int
    num_sequences: int
    least_others: int = 256

    def takes(self, chunks: Sequence[Chunk], num_used: int) -> bool:
        """Whether to compute a step there, beside cells of which others use some.

        Only beginnings of prompts: whatever goes on needs to see what is in the cells.
        """
        return (
            num_used >= self.least_others
            and len(chunks) <= self.num_sequences
            and sum(len(each.tokens) for each in chunks) <= self.num_tokens
            and all(each.start == 0 and len(each.tokens) > 1 for each in chunks)
            and not any(each.pooler for each in chunks)
        )
