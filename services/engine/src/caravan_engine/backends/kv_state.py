"""Reads what llama.cpp exports of one sequence's memory: which positions, and their K and V rows.

Only the plain cache with V not transposed (flash attention on), which is all that we run.
"""

import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_NUM_CELLS_AT, _CELLS_AT, _CELL_BYTES = 12, 16, 12


class KvStateError(ValueError):
    """The bytes are not laid out as expected."""


@dataclass(frozen=True, slots=True)
class KvState:
    """The cells of one sequence in cell order, which need not be position order.

    `keys` and `values` have one array per layer: # (num_cells, row bytes) uint8.
    """

    positions: tuple[int, ...]
    keys: tuple[npt.NDArray[np.uint8], ...]
    values: tuple[npt.NDArray[np.uint8], ...]

    def faults(self, positions: Sequence[int]) -> Iterator[str]:
        """Yields one line for each position that hasn't exactly one cell, or none where it should.

        Args:
            positions: Those that should be there.
        """
        counts, wanted = Counter(self.positions), Counter(positions)
        for position in sorted(counts.keys() | wanted.keys()):
            if counts[position] != wanted[position]:
                yield f"position {position} has {counts[position]} cells, not {wanted[position]}"


def parse_kv_state(data: bytes | memoryview) -> KvState:
    """Reads the result of `llama_state_seq_get_data`.

    Raises:
        KvStateError: if the bytes end early, go on, or describe another kind of cache.
    """
    reader = _Reader(data)
    reader.numbers("<Ii")  # magic, sequence id
    num_streams, num_cells = reader.numbers("<II")
    if num_streams != 1:
        raise KvStateError(f"{num_streams} streams: the cache is not unified")
    if num_cells == 0:
        return KvState((), (), ())
    positions = tuple(_position(reader) for _ in range(num_cells))
    is_transposed, num_layers = reader.numbers("<II")
    if is_transposed:
        raise KvStateError("V is transposed")
    keys = tuple(_rows(reader, num_cells) for _ in range(num_layers))
    values = tuple(_rows(reader, num_cells) for _ in range(num_layers))
    reader.expect_end()
    return KvState(positions, keys, values)


def sort_by_position(data: npt.NDArray[np.uint8]) -> None:
    """Puts the cells of an exported sequence in the order of their positions, in place.

    llama.cpp copies cells in the order in which they lie, and restores them in that of the copy.
    A page that lay scattered would so be scattered for ever, and otherwise than `CellMap` takes it
    to be. What is laid out otherwise stays as it is.
    """
    num_cells = int(data[_NUM_CELLS_AT:_CELLS_AT].view("<u4")[0])
    cells = data[_CELLS_AT : _CELLS_AT + num_cells * _CELL_BYTES].reshape(num_cells, _CELL_BYTES)
    positions = np.ascontiguousarray(cells[:, :4]).view("<i4").ravel()
    if np.all(positions[1:] > positions[:-1]):
        return
    try:
        state = parse_kv_state(data.data)
    except KvStateError:
        return
    order = np.argsort(positions)
    for rows in (cells, *state.keys, *state.values):
        rows[:] = rows[order]


def _position(reader: "_Reader") -> int:
    position, num_seq_ids, _ = reader.numbers("<iIi")
    if num_seq_ids != 1:
        raise KvStateError(f"a cell of one sequence names {num_seq_ids}")
    return position


def _rows(reader: "_Reader", num_cells: int) -> npt.NDArray[np.uint8]:
    _, row_bytes = reader.numbers("<iQ")
    rows = np.frombuffer(reader.take(num_cells * row_bytes), np.uint8)
    return rows.reshape(num_cells, row_bytes)


class _Reader:
    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0

    def take(self, num_bytes: int) -> memoryview:
        taken = self._data[self._at : self._at + num_bytes]
        if len(taken) != num_bytes:
            raise KvStateError("the bytes end early")
        self._at += num_bytes
        return taken

    def numbers(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))

    def expect_end(self) -> None:
        if self._at != len(self._data):
            raise KvStateError("there are more bytes than described")
