import ctypes

import pytest

from caravan_engine.backends.batch_arrays import BatchArrays
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.sampling.token_sampler import TokenSampler
from caravan_engine.domain.step import Chunk, StepPlan

SAMPLER = TokenSampler(SamplingOptions(temperature=0), seed=0, candidates=None, history=())


def test_a_plan_becomes_parallel_arrays():
    arrays = BatchArrays(8)
    arrays.fill(StepPlan((), (Chunk(0, 0, (9,) * 8, SAMPLER),)))  # must leave nothing behind
    plan = StepPlan((), (Chunk(5, 10, (1,), SAMPLER), Chunk(2, 0, (7, 8, 9), None)))
    assert arrays.fill(plan) == 4
    assert arrays.tokens[:4].tolist() == [1, 7, 8, 9]
    assert arrays.positions[:4].tolist() == [10, 0, 1, 2]
    assert arrays.seq_ids[:4].tolist() == [5, 2, 2, 2]
    assert arrays.outputs[:4].tolist() == [1, 0, 0, 0]


def test_each_token_points_to_its_own_sequence_id():
    arrays = BatchArrays(4)
    arrays.fill(StepPlan((), (Chunk(3, 0, (1, 1), None), Chunk(1, 0, (1, 1), None))))
    pointed = [ctypes.c_int32.from_address(int(each)).value for each in arrays.seq_id_pointers]
    assert pointed == [3, 3, 1, 1]


def test_a_plan_over_the_capacity_is_refused():
    with pytest.raises(ValueError, match="9 tokens in a batch of 8"):
        BatchArrays(8).fill(StepPlan((), (Chunk(0, 0, (1,) * 9, None),)))
