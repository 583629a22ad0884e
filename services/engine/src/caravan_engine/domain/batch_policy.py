"""Which tokens share a step."""

from collections.abc import Mapping
from typing import Protocol

from caravan_engine.domain.sequence import Sequence
from caravan_engine.domain.step import Chunk


class BatchPolicy(Protocol):
    """Divides a step's token budget among the sequences that may run."""

    def compose(self, runnable: Mapping[int, Sequence], token_budget: int) -> tuple[Chunk, ...]:
        """Returns at most one chunk per sequence, together at most `token_budget` tokens.

        Args:
            runnable: Sequences by seat, in order of admission; all have something to compute.
            token_budget: Most tokens of the step; at least one per seat.
        """
        ...


class DecodeFirst:
    """One token for everybody who decodes; prompts fill the rest, oldest first, in chunks."""

    def compose(self, runnable: Mapping[int, Sequence], token_budget: int) -> tuple[Chunk, ...]:
        """See `BatchPolicy`."""
        decoding: list[tuple[int, Sequence]] = []
        prefilling: list[tuple[int, Sequence]] = []
        for seat, sequence in runnable.items():
            (decoding if sequence.num_pending == 1 else prefilling).append((seat, sequence))
        chunks = [_chunk(seat, sequence, 1) for seat, sequence in decoding]
        left = token_budget - len(chunks)
        for seat, sequence in prefilling:
            if left == 0:
                break
            chunks.append(_chunk(seat, sequence, left))
            left -= len(chunks[-1].tokens)
        return tuple(chunks)


def _chunk(seat: int, sequence: Sequence, max_tokens: int) -> Chunk:
    start = sequence.num_computed
    end = min(start + max_tokens, sequence.goal)
    reaches_end = end == len(sequence.tokens)
    tokens = tuple(sequence.tokens[start:end])
    sampler = sequence.sampler if reaches_end else None
    return Chunk(seat, start, tokens, sampler, sequence.request.num_top_logprobs)
