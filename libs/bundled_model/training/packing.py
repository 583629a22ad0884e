"""Documents become rows of tokens: several in a row, none of which sees the others."""

import itertools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from corpus.documents import Document
from tokenizer import PAD, Tokenizer

_FARTHEST = 2000
_JUMP_SHARE = 0.5
_WAITING = 32


@dataclass(frozen=True, slots=True)
class Rows:
    """Packed documents; all arrays have the shape (num_rows, length)."""

    tokens: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    """How much the token at this place counts as a target."""
    segments: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]


@dataclass(slots=True)
class _Row:
    tokens: list[int] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)


def pack(
    documents: Iterator[Document],
    tokenizer: Tokenizer,
    *,
    num_rows: int,
    length: int,
    jumps: random.Random | None,
) -> Rows:
    """Fills rows one after the other, each time with the longest waiting document that fits.

    Args:
        documents: endless; those longer than a row are left out.
        tokenizer: encodes them.
        num_rows: how many rows.
        length: tokens in a row.
        jumps: decides where positions skip ahead; None is nowhere.
    """
    encoded = (_encode(document, tokenizer, jumps) for document in documents)
    fitting = (each for each in encoded if len(each[0]) <= length)
    waiting = list(itertools.islice(fitting, _WAITING))
    rows = [_Row() for _ in range(num_rows)]
    for row in rows:
        while (best := _best_fit(waiting, length - len(row.tokens))) is not None:
            _append(row, waiting.pop(best))
            waiting.append(next(fitting))
    pad = tokenizer.id_of(PAD)
    return Rows(
        tokens=_array((row.tokens for row in rows), length, pad).astype(np.int32),
        weights=_array((row.weights for row in rows), length, 0).astype(np.float32),
        segments=_array((row.segments for row in rows), length, 0).astype(np.int32),
        positions=_array((row.positions for row in rows), length, 0).astype(np.int32),
    )


def _best_fit(waiting: list[list[list[float]]], room: int) -> int | None:
    fitting = [rank for rank, encoded in enumerate(waiting) if len(encoded[0]) <= room]
    return max(fitting, key=lambda rank: len(waiting[rank][0]), default=None)


def _append(row: _Row, encoded: list[list[float]]) -> None:
    tokens, weights, positions = encoded
    segment = (row.segments[-1] if row.segments else 0) + 1
    row.tokens += [int(token) for token in tokens]
    row.weights += [0.0, *weights[1:]]
    row.segments += [segment] * len(tokens)
    row.positions += [int(position) for position in positions]


def _encode(
    document: Document, tokenizer: Tokenizer, jumps: random.Random | None
) -> list[list[float]]:
    tokens: list[float] = []
    weights: list[float] = []
    positions: list[float] = []
    jump_at = _choose_jump(document, jumps)
    skipped = 0
    for place, span in enumerate(document):
        new = [tokenizer.id_of(span.text)] if span.special else tokenizer.encode(span.text)
        if jumps is not None and place == jump_at:
            skipped = jumps.randrange(_FARTHEST)
        positions += range(len(tokens) + skipped, len(tokens) + len(new) + skipped)
        tokens += new
        weights += [span.weight] * len(new)
    return [tokens, weights, positions]


def _choose_jump(document: Document, jumps: random.Random | None) -> int | None:
    places = [place for place, span in enumerate(document) if span.may_jump]
    if jumps is None or not places or jumps.random() > _JUMP_SHARE:
        return None
    return jumps.choice(places)


def _array(
    lists: Iterable[list[int]] | Iterable[list[float]], length: int, filling: int
) -> npt.NDArray[np.float64]:
    return np.array([[*values, *[filling] * (length - len(values))] for values in lists])
