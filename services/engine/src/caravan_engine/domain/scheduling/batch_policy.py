"""Which tokens share a step."""

from collections.abc import Iterator, Mapping
from typing import Protocol

from caravan_engine.domain.memory_plan import MAX_EMBEDDED_TOKENS
from caravan_engine.domain.pooling import Pooler
from caravan_engine.domain.scheduling.limits import SchedulerLimits
from caravan_engine.domain.scheduling.rates import StepRates
from caravan_engine.domain.sequence import Sequence
from caravan_engine.domain.step import Chunk

MIN_CHUNK = 32
DECODING_SHARE = 2 / 5
_ENOUGH_TILES = 4
"""256 tokens take as long each as 512 (3.63 ms, a 0.5B model on two cores), 64 take 6 % longer."""


class BatchPolicy(Protocol):
    """Divides a step's token budget among the sequences that may run."""

    def compose(self, runnable: Mapping[int, Sequence], token_budget: int) -> tuple[Chunk, ...]:
        """Returns at most one chunk per sequence, together at most `token_budget` tokens.

        Args:
            runnable: Sequences by seat, in order of admission; all have something to compute.
            token_budget: Most tokens of the step; at least one per seat.
        """
        ...


class StepTimeBound:
    """Bounds the long prompts' part of a step, so that they don't hold up those who decode.

    A step is planned to take `step_time_s` at the measured rates. But it always has room for 32
    prompt tokens, so that prompts advance at any rate; fewer would hardly be computed faster.

    Prompts that fit into one step aren't cut: each holds the others up once, for as long as it
    takes, and in parts it would cost them as much and the throughput more (a twentieth).

    Where steps of prompts and of decoding alternate, those who decode keep two fifths of the time:
    so many steps are theirs after each part. A part is no longer than what is computed of its
    prompt already (or one tile): what its cells will cost is known from the part before it.

    Args:
        rates: What was measured; nothing yet means 32 tokens.
        step_time_s: Seconds that a step may take in which somebody decodes.
        whole_tokens: Texts up to this length aren't bounded.
        tile: See `DecodeFirst`; a chunk is of whole tiles then, for a part of one costs as much.
    """

    def __init__(
        self,
        rates: StepRates,
        step_time_s: float,
        *,
        whole_tokens: int = 0,
        tile: int | None = None,
    ) -> None:
        self._rates = rates
        self._step_time_s = step_time_s
        self._whole_tokens = whole_tokens
        self._tile = tile

    def tokens_beside(self, num_decoding: int) -> int:
        """Returns most tokens of long prompts in a step in which so many sequences decode."""
        fitting = self._rates.current.prefill_tokens_within(self._step_time_s, num_decoding)
        return self._whole_tiles(fitting, self._tile) if self._tile else max(MIN_CHUNK, fitting)

    def most_of(self, sequence: Sequence) -> int:
        """Returns most tokens of the next part of a long prompt, by what is computed of it."""
        if not self._tile:
            return len(sequence.tokens)
        return self._whole_tiles(sequence.num_computed, self._tile)

    def decoding_steps_after(self, num_tokens: int, num_decoding: int) -> int:
        """Returns how many steps of decoding follow a part of a long prompt, at least one."""
        rates = self._rates.current
        decode_s, prefill_s = rates.decode_s(num_decoding), rates.prefill_s(num_tokens)
        if not decode_s or not prefill_s:
            return 1
        return max(1, round(prefill_s * DECODING_SHARE / (1 - DECODING_SHARE) / decode_s))

    @staticmethod
    def _whole_tiles(num_tokens: int, tile: int) -> int:
        return max(tile, num_tokens - num_tokens % tile)

    def holds_for(self, sequence: Sequence) -> bool:
        """Whether a sequence has a long prompt."""
        return len(sequence.tokens) > self._whole_tokens


class DecodeFirst:
    """One token for everybody who decodes; prompts fill the rest, oldest first, in chunks.

    On a CPU llama.cpp's attention takes a tile of a batch at a time, 64 tokens, and for all of
    them the cells that any of them can see. Together those who decode see everybody's, so a step
    in which they share a tile with prompts takes longer than both apart (by 100 ms with 1,800 cells
    in use, where eight that decode take 65 alone). Then prompts and decoding alternate. Smaller
    batches are computed without tiles, and hold both.

    Args:
        bound: How much long ones may fill while somebody decodes; None: all.
        tile: Tokens of a tile; None: there are none.
        enough_tokens: From how many on a step computes no faster; None: it is filled in any case.
            Prompts that don't fit into so many beside others wait for the next step: they aren't
            cut for want of room, so they may be computed aside (`SideLimits`), and those before
            them have their first tokens sooner. Beside those who decode fewer are enough if more
            would take longer than the bound.
    """

    def __init__(
        self,
        bound: StepTimeBound | None = None,
        *,
        tile: int | None = None,
        enough_tokens: int | None = None,
    ) -> None:
        self._bound = bound
        self._tile = tile
        self._enough_tokens = enough_tokens
        self._num_since_decoding = 0  # tokens of prompts, while somebody waits to decode
        self._long_waits = 0  # steps of decoding until the next part of a long prompt

    def compose(self, runnable: Mapping[int, Sequence], token_budget: int) -> tuple[Chunk, ...]:
        """See `BatchPolicy`."""
        decoding: dict[int, Sequence] = {}
        prefilling: dict[int, Sequence] = {}
        for seat, sequence in runnable.items():
            (decoding if sequence.num_pending == 1 else prefilling)[seat] = sequence
        decodes = tuple(_chunk(seat, sequence, 1) for seat, sequence in decoding.items())
        if not decodes:
            self._num_since_decoding = self._long_waits = 0
            return tuple(self._fill(prefilling, token_budget))
        room = self._room_beside(len(decodes), token_budget)
        if self._bound is None:
            return self._together(decodes, tuple(self._fill(prefilling, room)), token_budget)
        if self._long_waits:
            prefilling = {s: p for s, p in prefilling.items() if not self._bound.holds_for(p)}
        prompts = tuple(self._fill_within(self._bound, prefilling, room, len(decodes)))
        chunks = self._together(decodes, prompts, self._bound.tokens_beside(len(decodes)))
        self._count_turns(self._bound, chunks, prefilling, len(decodes))
        return chunks

    def _room_beside(self, num_decoding: int, token_budget: int) -> int:
        room = token_budget - num_decoding
        will_alternate = self._tile is not None and room >= self._tile
        return token_budget if will_alternate else room

    def _together(
        self, decodes: tuple[Chunk, ...], prompts: tuple[Chunk, ...], most_in_turn: int
    ) -> tuple[Chunk, ...]:
        """Puts both into a step, or the one whose turn it is.

        Those who decode wait for a step of prompts, and for more as long as all are `most_in_turn`.
        """
        num_tokens = sum(len(each.tokens) for each in prompts)
        is_small = self._tile is None or len(decodes) + num_tokens < self._tile
        if is_small or not prompts:
            self._num_since_decoding = 0
            return (*decodes, *prompts)
        num_before, self._num_since_decoding = self._num_since_decoding, 0
        if num_before and num_before + num_tokens > most_in_turn:
            return decodes
        self._num_since_decoding = num_before + num_tokens
        return prompts

    def _count_turns(
        self,
        bound: StepTimeBound,
        chunks: tuple[Chunk, ...],
        prefilling: Mapping[int, Sequence],
        num_decoding: int,
    ) -> None:
        if not self._num_since_decoding:
            self._long_waits = max(0, self._long_waits - 1)
            return
        num_long = sum(len(c.tokens) for c in chunks if bound.holds_for(prefilling[c.seq_id]))
        if num_long:
            self._long_waits = bound.decoding_steps_after(num_long, num_decoding)

    def _fill(self, prompts: Mapping[int, Sequence], room: int) -> Iterator[Chunk]:
        num_tokens = 0
        for seat, sequence in prompts.items():
            if num_tokens < room and not self._waits(sequence, num_tokens, room):
                chunk = _chunk(seat, sequence, room - num_tokens)
                num_tokens += len(chunk.tokens)
                yield chunk

    def _waits(self, sequence: Sequence, num_others: int, most: int) -> bool:
        """Whether a prompt waits for a step that has room for it beside so many tokens."""
        if self._enough_tokens is None:
            return False
        return 0 < num_others > min(self._enough_tokens, most) - sequence.num_pending

    def _fill_within(
        self, bound: StepTimeBound, prompts: Mapping[int, Sequence], room: int, num_decoding: int
    ) -> Iterator[Chunk]:
        most = room_for_long = bound.tokens_beside(num_decoding)
        all_room = room
        for seat, sequence in prompts.items():
            if self._waits(sequence, all_room - room, most):
                continue
            is_long = bound.holds_for(sequence)
            num_tokens = room
            if is_long:
                num_tokens = min(room, room_for_long, bound.most_of(sequence))
            if num_tokens:
                chunk = _chunk(seat, sequence, num_tokens)
                room -= len(chunk.tokens)
                room_for_long = max(0, room_for_long - len(chunk.tokens))
                yield chunk


class TakingTurns:
    """Sequences that embed and those that generate never share a step, and alternate.

    Args:
        generation: For those that generate.
        embedding_tokens: Most tokens of a step that embeds.
    """

    def __init__(
        self, generation: BatchPolicy, *, embedding_tokens: int = MAX_EMBEDDED_TOKENS
    ) -> None:
        self._generation = generation
        self._embedding_tokens = embedding_tokens
        self._has_embedded = False

    def compose(self, runnable: Mapping[int, Sequence], token_budget: int) -> tuple[Chunk, ...]:
        """See `BatchPolicy`."""
        embedding = {s: each for s, each in runnable.items() if isinstance(each.work, Pooler)}
        if not embedding:
            return self._generation.compose(runnable, token_budget)
        is_mixed = len(embedding) < len(runnable)
        self._has_embedded = not (is_mixed and self._has_embedded)
        if self._has_embedded:
            return tuple(_fill(embedding, min(token_budget, self._embedding_tokens)))
        generating = {s: each for s, each in runnable.items() if s not in embedding}
        return self._generation.compose(generating, token_budget)


def make_batch_policy(limits: SchedulerLimits, rates: StepRates) -> BatchPolicy:
    """Returns what the limits ask for."""
    whole, step_s, tile = limits.token_budget, limits.step_time_s, limits.attention_tile
    bound = StepTimeBound(rates, step_s, whole_tokens=whole, tile=tile) if step_s else None
    enough = tile and _ENOUGH_TILES * tile
    return TakingTurns(DecodeFirst(bound, tile=tile, enough_tokens=enough))


def _fill(sequences: Mapping[int, Sequence], num_tokens: int) -> Iterator[Chunk]:
    for seat, sequence in sequences.items():
        if num_tokens == 0:
            return
        chunk = _chunk(seat, sequence, num_tokens)
        num_tokens -= len(chunk.tokens)
        yield chunk


def _chunk(seat: int, sequence: Sequence, max_tokens: int) -> Chunk:
    start, work = sequence.num_computed, sequence.work
    end = min(start + max_tokens, len(sequence.tokens))
    tokens = tuple(sequence.tokens[start:end])
    if isinstance(work, Pooler):
        return Chunk(seat, start, tokens, None, pooler=work)
    sampler = work if end == len(sequence.tokens) else None
    return Chunk(seat, start, tokens, sampler, sequence.num_top_logprobs)
