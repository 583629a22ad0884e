"""The check that `test_same_text` makes of a state: it fails where the state is wrong."""

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest
from solo_check import NUM_SEATS, by_position, calibrate, distances

from caravan_engine.domain.step import Chunk, StepPlan

FIRST, LAST = 20, 28


def drop(memory):
    lib.llama_memory_seq_rm(memory, 0, FIRST, FIRST + 1)


def double(memory):
    lib.llama_memory_seq_cp(memory, 1, 0, FIRST, FIRST + 1)


def take_cells_of_another_sequence(memory):
    lib.llama_memory_seq_rm(memory, 0, FIRST, LAST)
    lib.llama_memory_seq_cp(memory, 1, 0, FIRST, LAST)


def swap_two_ranges(memory):
    width, scratch = LAST - FIRST, NUM_SEATS
    for seat, start in ((scratch, FIRST), (scratch + 1, LAST)):
        lib.llama_memory_seq_cp(memory, 0, seat, start, start + width)
    lib.llama_memory_seq_rm(memory, 0, FIRST, LAST + width)
    lib.llama_memory_seq_add(memory, scratch, FIRST, LAST, width)
    lib.llama_memory_seq_add(memory, scratch + 1, LAST, LAST + width, -width)
    for seat, start in ((scratch, LAST), (scratch + 1, FIRST)):
        lib.llama_memory_seq_cp(memory, seat, 0, start, start + width)
        lib.llama_memory_seq_rm(memory, seat, -1, -1)


def swap_two_neighbours(memory):
    lib.llama_memory_seq_cp(memory, 0, NUM_SEATS, FIRST, FIRST + 1)
    lib.llama_memory_seq_rm(memory, 0, FIRST, FIRST + 1)
    lib.llama_memory_seq_add(memory, 0, FIRST + 1, FIRST + 2, -1)
    lib.llama_memory_seq_add(memory, NUM_SEATS, FIRST, FIRST + 1, 1)
    lib.llama_memory_seq_cp(memory, NUM_SEATS, 0, FIRST + 1, FIRST + 2)
    lib.llama_memory_seq_rm(memory, NUM_SEATS, -1, -1)


@pytest.fixture
def two_sequences(backend):
    """Two sequences in memory, and a look at the raw memory."""
    histories = [tuple(range(300 + 50 * seat, 345 + 50 * seat)) for seat in range(2)]
    for seat, tokens in enumerate(histories):
        backend.decode(StepPlan((), (Chunk(seat, 0, tokens, None),)))
    yield histories
    for seq_id in range(NUM_SEATS + 2):
        backend.release(seq_id)


def state_faults(backend, histories, solo, bound):
    """The state check: cells by count, then cells by content."""
    faults = backend.check_integrity(
        {seat: range(len(each)) for seat, each in enumerate(histories)}
    )
    if faults:
        return faults
    return [
        f"sequence {seat}: position {position} is not its own"
        for seat, tokens in enumerate(histories)
        for position in np.flatnonzero(
            distances(by_position(backend.export_state(seat)), solo.state(tokens)) > bound
        )
    ]


def test_an_untouched_state_passes(backend, two_sequences, solo):
    bound = calibrate(solo, two_sequences[0])
    assert state_faults(backend, two_sequences, solo, bound) == []


@pytest.mark.parametrize("mutate", [drop, double])
def test_a_missing_or_doubled_position_is_counted(backend, two_sequences, solo, mutate):
    mutate(backend.memory)
    faults = state_faults(backend, two_sequences, solo, bound=np.inf)
    assert len(faults) == 1
    assert f"position {FIRST} has" in faults[0]


@pytest.mark.parametrize(
    ("mutate", "num_wrong"),
    [
        (take_cells_of_another_sequence, LAST - FIRST),
        (swap_two_ranges, 2 * (LAST - FIRST)),
        (swap_two_neighbours, 2),
    ],
)
def test_cells_at_the_wrong_place_hold_other_rows(backend, two_sequences, solo, mutate, num_wrong):
    bound = calibrate(solo, two_sequences[0])
    mutate(backend.memory)
    assert backend.check_integrity({0: range(45), 1: range(45)}) == []  # their number is right
    assert len(state_faults(backend, two_sequences, solo, bound)) == num_wrong
