"""A deterministic stand-in for llama.cpp: a byte vocabulary, and tokens that follow from history.

As strict as the real one where it matters: consecutive positions, batch size, cells. What it can't
tell from the plan it doesn't do; all that it knows of a sequence is what it was made to compute.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from caravan_engine.domain.paging.page_image import PageImage
from caravan_engine.domain.ports import BackendFailureError, CandidateFilter
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.step import Chunk, StepPlan

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
    """What a real cell holds: it depends on the token, its place, and everything before it."""

    position: int
    token: int
    digest: int
    holders: set[int] = field(default_factory=set)


_EMPTY_DIGEST = 0


def _digest(before: int, token: int) -> int:
    data = np.asarray((before, token), np.int64).tobytes()
    return int.from_bytes(blake2b(data, digest_size=7).digest())


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
        num_seats: Sequence ids from here on only keep pages, of whatever texts.
        refuses: Asked before a page is restored; True refuses it, like a damaged one.
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
    shares_cores: bool = False
    num_seats: int | None = None
    num_wipes: int = 0
    refuses: Callable[[PageImage], bool] = lambda _image: False
    _cells: list["_Cell | None"] = field(init=False)
    _places: dict[int, dict[int, int]] = field(default_factory=dict)  # sequence, position -> cell

    def __post_init__(self) -> None:
        self._cells = [None] * self.num_cells

    @property
    def num_used_cells(self) -> int:
        """Cells that somebody has; those that several share count once."""
        return sum(cell is not None for cell in self._cells)

    def candidate_filter(self, options: SamplingOptions) -> CandidateFilter | None:
        """See `domain.ports.Backend`; knows top-k and temperature, and XTC drops the best one."""
        return None if options.is_greedy else _TopK(options)

    def release(self, seq_id: int, start: int = 0, end: int | None = None) -> None:
        """See `domain.ports.Backend`."""
        places = self._places.get(seq_id, {})
        for position in [p for p in places if start <= p and (end is None or p < end)]:
            index = places.pop(position)
            if cell := self._cells[index]:
                cell.holders.remove(seq_id)
                self._cells[index] = cell if cell.holders else None

    def share(self, source: int, target: int, start: int, end: int) -> None:
        """See `domain.ports.Backend`."""
        its = self._places.get(source, {})
        mine = self._places.setdefault(target, {})
        for position in (each for each in range(start, end) if each in its):
            if position in mine:
                raise AssertionError(f"sequence {target} has two cells for {position}")
            mine[position] = its[position]
            if cell := self._cells[its[position]]:
                cell.holders.add(target)

    def export_page(self, seq_id: int, start: int, end: int) -> memoryview:
        """See `domain.ports.Backend`; like llama.cpp it copies what is there."""
        places = self._places.get(seq_id, {})
        cells = [self._cell(seq_id, each) for each in range(start, end) if each in places]
        rows = [(cell.position, cell.token, cell.digest) for cell in cells]
        return memoryview(bytearray(np.array(rows, np.int64).tobytes()))

    def import_page(self, image: PageImage, seq_id: int, start: int, end: int) -> bool:
        """See `domain.ports.Backend`; like llama.cpp it needs cells for all of the image."""
        rows = np.frombuffer(image.data, np.int64).reshape(-1, 3).tolist()
        free = self._free(len(rows))
        if free is None or self.refuses(image):
            return False
        places = self._places.setdefault(seq_id, {})
        for index, (position, token, digest) in zip(free, rows, strict=True):
            if start <= position < end:
                if position in places:
                    raise AssertionError(f"sequence {seq_id} has two cells for {position}")
                self._cells[index] = _Cell(position, token, digest, {seq_id})
                places[position] = index
        return True

    def wipe(self) -> None:
        """See `domain.ports.Backend`."""
        if self.num_used_cells:
            raise AssertionError(f"{self.num_used_cells} cells of somebody would be zeroed")
        self.num_wipes += 1

    def decode(self, plan: StepPlan) -> npt.NDArray[np.float32]:
        """See `domain.ports.Backend`."""
        if plan.num_tokens > self.batch_tokens:
            raise AssertionError(f"{plan.num_tokens} tokens would abort the process")
        if plan.is_aside and any(chunk.start for chunk in plan.chunks):
            raise AssertionError("what goes on can't be computed without what is in the cells")
        self.plans.append(plan)
        self.spend(plan.num_tokens)
        code = self.fails(len(self.plans) - 1, plan)
        if code is not None:
            self._store(plan.chunks[: len(plan.chunks) // 2 + 1])
            raise BackendFailureError(code)
        self._store(plan.chunks)
        rows = [self.row_after(self.history(chunk.seq_id)) for chunk, _ in plan.sampling()]
        return np.array(rows, np.float32)

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

    def check_integrity(self, positions: Mapping[int, Sequence[int]]) -> list[str]:
        """See `domain.ports.IntegrityChecker`; also knows whether cells belong to their text."""
        faults = []
        for seq_id in sorted(self._places.keys() | positions.keys()):
            places = self._places.get(seq_id, {})
            if places.keys() != set(positions.get(seq_id, ())):
                faults.append(f"sequence {seq_id} has {sorted(places)}")
            if self.num_seats is None or seq_id < self.num_seats:
                faults += self._strangers(seq_id)
        return faults

    def _strangers(self, seq_id: int) -> list[str]:
        places = self._places.get(seq_id, {})
        before, faults = _EMPTY_DIGEST, []
        for position in range(len(places)):
            if position not in places:
                break
            cell = self._cell(seq_id, position)
            before = _digest(before, cell.token)
            if cell.digest != before or cell.position != position:
                faults.append(f"sequence {seq_id}: position {position} is of another text")
        return faults

    def cell_order(self, seq_id: int) -> tuple[int, ...]:
        """Returns the positions of a sequence in the order of their cells."""
        places = self._places.get(seq_id, {})
        return tuple(sorted(places, key=lambda position: places[position]))

    def history(self, seq_id: int) -> list[int]:
        """Returns the tokens that it computed for a sequence, in the order of their positions."""
        return [self._cell(seq_id, at).token for at in sorted(self._places.get(seq_id, {}))]

    def row_after(self, history: Sequence[int]) -> npt.NDArray[np.float32]:
        """Returns the logits after a history."""
        row = np.full(VOCABULARY_SIZE, self.fill(history), np.float32)
        row[self.next_token(history)] += 10
        return row

    def share_cores(self, *, shares: bool) -> None:
        """See `domain.ports.Backend`."""
        self.shares_cores = shares

    def close(self) -> None:
        """See `domain.ports.Backend`."""
        self.is_closed = True

    def _store(self, chunks: Sequence[Chunk]) -> None:
        free = self._free(sum(len(chunk.tokens) for chunk in chunks))
        if free is None:
            raise BackendFailureError(_NO_CELLS)
        indices = iter(free)
        for chunk in chunks:
            places = self._places.setdefault(chunk.seq_id, {})
            if places.keys() != set(range(chunk.start)):
                raise BackendFailureError(_INVALID_BATCH)
            for position, token in enumerate(chunk.tokens, chunk.start):
                before = _EMPTY_DIGEST
                if position:
                    before = self._cell(chunk.seq_id, position - 1).digest
                places[position] = index = next(indices)
                digest = _digest(before, token)
                self._cells[index] = _Cell(position, token, digest, {chunk.seq_id})

    def _free(self, num: int) -> list[int] | None:
        """Returns the lowest free cells, as llama.cpp finds them."""
        free = [index for index, cell in enumerate(self._cells) if cell is None]
        return free[:num] if num <= len(free) else None

    def _cell(self, seq_id: int, position: int) -> _Cell:
        cell = self._cells[self._places[seq_id][position]]
        if cell is None:
            raise AssertionError(f"sequence {seq_id} lost the cell of {position}")
        return cell


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
