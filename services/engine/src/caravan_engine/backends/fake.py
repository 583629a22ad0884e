"""A deterministic stand-in for llama.cpp: a byte vocabulary, and tokens that follow from history.

As strict as the real one where it matters: consecutive positions, batch size, cells. What it can't
tell from the plan it doesn't do; all that it knows of a sequence is what it was made to compute.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from caravan_engine.domain.ports import BackendFailureError, CandidateFilter
from caravan_engine.domain.sampling import SamplingOptions
from caravan_engine.domain.step import Chunk, SharedPrefix, StepPlan

END, BEGIN = 256, 257
VOCABULARY_SIZE = 258

_NO_CELLS, _INVALID_BATCH = 1, -1
_FIRST_LETTER, _NUM_LETTERS = ord("a"), 26


class FakeVocabulary:
    """One token per byte, one that ends a text and one control token."""

    size = VOCABULARY_SIZE
    end_tokens = frozenset({END})
    control_tokens = frozenset({END, BEGIN})
    pieces = (*(bytes([value]) for value in range(256)), b"", b"")

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """See `domain.ports.Vocabulary`; there is no spelling for special tokens."""
        del parse_special
        return [BEGIN] * add_special + list(text.encode())


def letters(history: Sequence[int]) -> int:
    """Returns a letter that depends on every token of `history` and its place."""
    digest = blake2b(np.asarray(history, np.int32).tobytes(), digest_size=2).digest()
    return _FIRST_LETTER + int.from_bytes(digest) % _NUM_LETTERS


def scripted(continuations: Mapping[bytes, bytes]) -> Callable[[Sequence[int]], int]:
    """Returns a rule that continues each prompt with its text, byte by byte, and then ends."""

    def rule(history: Sequence[int]) -> int:
        for prompt, text in continuations.items():
            if bytes(history[: len(prompt)]) == prompt:
                following: tuple[int, ...] = (*text, END)
                return following[len(history) - len(prompt)]
        return END

    return rule


@dataclass(slots=True)
class _Cell:
    position: int
    token: int


@dataclass(slots=True)
class FakeBackend:
    """Implements `domain.ports.Backend` and `IntegrityChecker`.

    Args:
        num_cells: Positions it can hold.
        batch_tokens: Most tokens of a step; one more would abort llama.cpp's process.
        next_token: The rule by which a history goes on.
        fails: Asked before each step with its number and plan; a code other than None makes the
            step fail after a part of it was computed.
        spend: Told how many tokens each step computes; moves a test's clock.
        fill: Every other logit of a row; NaN makes rows unusable.
    """

    num_cells: int = 4096
    batch_tokens: int = 512
    next_token: Callable[[Sequence[int]], int] = letters
    fails: Callable[[int, StepPlan], int | None] = lambda _step, _plan: None
    spend: Callable[[int], None] = lambda _num_tokens: None
    fill: Callable[[Sequence[int]], float] = lambda _history: 0.0
    vocabulary: FakeVocabulary = field(default_factory=FakeVocabulary)
    plans: list[StepPlan] = field(default_factory=list)
    is_closed: bool = False
    _memory: dict[int, list["_Cell"]] = field(default_factory=dict)

    @property
    def num_used_cells(self) -> int:
        """Cells that somebody has; those that several share count once."""
        return len({id(cell) for cells in self._memory.values() for cell in cells})

    def candidate_filter(self, options: SamplingOptions) -> CandidateFilter | None:
        """See `domain.ports.Backend`; knows top-k and temperature, and XTC drops the best one."""
        return None if options.is_greedy else _TopK(options)

    def release(self, seq_ids: Sequence[int]) -> None:
        """See `domain.ports.Backend`."""
        for seq_id in seq_ids:
            self._memory.pop(seq_id, None)

    def share(self, prefixes: Sequence[SharedPrefix]) -> None:
        """See `domain.ports.Backend`."""
        for each in prefixes:
            shared = self._memory[each.source][: each.length]
            self._memory.setdefault(each.target, []).extend(shared)

    def decode(self, plan: StepPlan) -> npt.NDArray[np.float32]:
        """See `domain.ports.Backend`."""
        if plan.num_tokens > self.batch_tokens:
            raise AssertionError(f"{plan.num_tokens} tokens would abort the process")
        self.plans.append(plan)
        self.spend(plan.num_tokens)
        code = self.fails(len(self.plans) - 1, plan)
        if code is not None:
            self._store(plan.chunks[: len(plan.chunks) // 2 + 1])
            raise BackendFailureError(code)
        self._store(plan.chunks)
        return np.array([self._row(chunk.seq_id) for chunk, _ in plan.sampling()], np.float32)

    def embed(self, plan: StepPlan) -> npt.NDArray[np.float32]:
        """See `domain.ports.Backend`; a token's vector says its place and what came before it."""
        if not all(chunk.pooler for chunk in plan.chunks):
            raise AssertionError("texts to generate and to embed share a batch")
        self.decode(plan)
        rows = []
        for chunk in plan.chunks:
            history = self.history(chunk.seq_id)
            for end in range(chunk.start + 1, chunk.end + 1):
                rows.append([self.fill(history), end, letters(history[:end])])
        return np.array(rows, np.float32)

    def check_integrity(self, lengths: Mapping[int, int]) -> list[str]:
        """See `domain.ports.IntegrityChecker`."""
        faults = []
        for seq_id in sorted(self._memory.keys() | lengths.keys()):
            counts = Counter(cell.position for cell in self._memory.get(seq_id, ()))
            if counts != Counter(range(lengths.get(seq_id, 0))):
                faults.append(f"sequence {seq_id}: {dict(counts)}")
        return faults

    def history(self, seq_id: int) -> list[int]:
        """Returns the tokens that it computed for a sequence, in the order of their positions."""
        cells = sorted(self._memory.get(seq_id, ()), key=lambda cell: cell.position)
        return [cell.token for cell in cells]

    def close(self) -> None:
        """See `domain.ports.Backend`."""
        self.is_closed = True

    def _store(self, chunks: Sequence[Chunk]) -> None:
        if self.num_used_cells + sum(len(chunk.tokens) for chunk in chunks) > self.num_cells:
            raise BackendFailureError(_NO_CELLS)
        for chunk in chunks:
            cells = self._memory.setdefault(chunk.seq_id, [])
            if len(cells) != chunk.start:
                raise BackendFailureError(_INVALID_BATCH)
            cells.extend(_Cell(at, token) for at, token in enumerate(chunk.tokens, chunk.start))

    def _row(self, seq_id: int) -> npt.NDArray[np.float32]:
        history = self.history(seq_id)
        row = np.full(VOCABULARY_SIZE, self.fill(history), np.float32)
        row[self.next_token(history)] += 10
        return row


class _TopK:
    def __init__(self, options: SamplingOptions) -> None:
        self._options = options

    def narrow(
        self, logits: npt.NDArray[np.float32], *, excludes_top: bool
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        best = np.argsort(-logits, kind="stable")[: self._options.num_candidates]
        best = best[1:] if excludes_top and best.size > 1 else best
        kept = (logits[best] / self._options.temperature).astype(np.float32)
        return best.astype(np.int32), kept
