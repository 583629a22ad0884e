"""What is computed aside is the same, and lies where the map of cells says."""

from contextlib import closing

import llama_cpp.llama_cpp as lib
import numpy as np
import pytest

from caravan_engine.backends.llama_cpp import KvType, LlamaCppBackend, LlamaCppSettings
from caravan_engine.domain.ports import BackendFailureError
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.sampling.token_sampler import TokenSampler
from caravan_engine.domain.step import Chunk, StepPlan

NUM_CELLS = 1024
FIRST, SECOND = tuple(range(100, 290)), tuple(range(300, 400))
OTHER = tuple(range(500, 700))
SAMPLER = TokenSampler(SamplingOptions(temperature=0), seed=0, candidates=None, history=())


def load(path, **fields):
    return LlamaCppBackend(
        LlamaCppSettings(
            **{
                "model_path": path,
                "num_cells": NUM_CELLS,
                "num_seats": 4,
                "batch_tokens": 512,
                "num_threads": 1,
                "side_context": True,
                **fields,
            }
        )
    )


@pytest.fixture
def backend(tiny_gguf):
    with closing(load(tiny_gguf)) as backend:
        yield backend


def plan(*texts, is_aside=False, first=0):
    chunks = (Chunk(seq_id, 0, text, SAMPLER) for seq_id, text in enumerate(texts, first))
    return StepPlan(chunks=tuple(chunks), is_aside=is_aside)


def test_memory_and_logits_are_those_of_an_empty_context(backend):
    rows = backend.decode(plan(FIRST, SECOND)).copy()
    states = [backend.export_state(seq_id) for seq_id in range(2)]
    for seq_id in range(2):
        backend.release(seq_id)

    aside = backend.decode(plan(FIRST, SECOND, is_aside=True))

    assert np.array_equal(rows, aside)
    assert [backend.export_state(seq_id) for seq_id in range(2)] == states


def test_it_takes_the_lowest_free_cells_and_leaves_others_alone(backend):
    backend.decode(plan(OTHER))
    backend.release(0, 50, 150)
    other = backend.export_state(0)

    backend.decode(plan(FIRST, SECOND, is_aside=True, first=1))

    held = {0: [*range(50), *range(150, 200)], 1: range(190), 2: range(100)}
    assert backend.check_integrity(held) == []
    assert backend.export_state(0) == other
    assert backend.cell_order(1) == tuple(range(190))
    row = backend.decode(StepPlan(chunks=(Chunk(1, 190, (7,), SAMPLER),)))
    assert np.isfinite(row).all()


def test_nothing_of_one_step_is_there_in_the_next(backend):
    backend.decode(plan(SECOND, FIRST, is_aside=True))
    for seq_id in range(2):
        backend.release(seq_id)
    backend.decode(plan(FIRST, is_aside=True))
    first = backend.export_state(0)
    backend.release(0)
    backend.decode(plan(FIRST))
    assert backend.export_state(0) == first


def test_a_lack_of_cells_fails_the_step_and_nobody_else(backend):
    others = [tuple(range(seq_id, 450 + seq_id)) for seq_id in range(2)]
    for seq_id, other in enumerate(others):
        backend.decode(plan(other, first=seq_id))
    states = [backend.export_state(seq_id) for seq_id in range(2)]

    with pytest.raises(BackendFailureError):
        backend.decode(plan(FIRST, is_aside=True, first=2))

    backend.release(2)
    assert [backend.export_state(seq_id) for seq_id in range(2)] == states
    backend.release(0)
    backend.decode(plan(FIRST, is_aside=True, first=2))
    assert backend.check_integrity({1: range(450), 2: range(190)}) == []


def test_forgetting_zeroes_it_too(backend, monkeypatch):
    cleared = []
    monkeypatch.setattr(lib, "llama_memory_clear", lambda memory, data: cleared.append(data))
    backend.wipe()
    assert cleared == [True, True]


@pytest.mark.parametrize(
    "fields",
    [
        {"side_context": False},
        {"can_cut": False},
        {"key_type": KvType.Q4_0, "value_type": KvType.F16},
    ],
)
def test_there_is_none_where_it_is_of_no_use(tiny_gguf, fields):
    with closing(load(tiny_gguf, **fields)) as backend:
        assert backend.side_limits is None


def test_it_computes_what_fits_into_a_step(backend):
    limits = backend.side_limits
    assert (limits.num_tokens, limits.num_sequences) == (512, 4)
