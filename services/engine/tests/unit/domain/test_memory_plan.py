import pytest

from caravan_engine.domain.memory_plan import (
    MAX_SIDE_SEQUENCES,
    ContextShape,
    KvElement,
    ModelShape,
    plan_memory,
)

MIB = 2**20
HALF_B = ModelShape(
    weight_bytes=441_294_336,
    num_layers=24,
    embedding_size=896,
    ffn_size=4864,
    num_kv_heads=2,
    key_size=64,
    value_size=64,
    vocabulary_size=32_000,
    trained_context_tokens=32_768,
)


def context(**fields):
    return ContextShape(**{"num_cells": 8192, "num_sequences": 16, "ubatch_tokens": 512, **fields})


@pytest.mark.parametrize(
    ("fields", "kv_mib", "compute_mib", "output_mib"),
    [  # what llama.cpp reported for this model
        ({}, 96, 43.51, 1.95),
        ({"num_cells": 32_768}, 384, 67.51, 1.95),
        ({"num_sequences": 64}, 96, 43.51, 7.81),
        ({"ubatch_tokens": 1024}, 96, 87.02, 1.95),
        ({"key_type": KvElement.Q8_0, "value_type": KvElement.Q8_0}, 51, 41.79, 1.95),
    ],
)
def test_the_plan_is_within_a_tenth_of_what_llama_cpp_reported(
    fields, kv_mib, compute_mib, output_mib
):
    plan = plan_memory(HALF_B, context(**fields))
    assert plan.kv_bytes == kv_mib * MIB
    assert plan.compute_bytes == pytest.approx(compute_mib * MIB, rel=0.1)
    assert plan.output_bytes == pytest.approx(output_mib * MIB, rel=0.1)


def test_pages_in_host_memory_are_four_times_the_cells_unless_told_otherwise():
    plan = plan_memory(HALF_B, context())
    assert plan.host_page_bytes == 4 * plan.kv_bytes
    assert plan.total_bytes == plan.fixed_bytes + plan.host_page_bytes


@pytest.mark.parametrize("host_page_bytes", [0, 1000])
def test_the_operator_says_how_much_host_memory_pages_may_take(host_page_bytes):
    plan = plan_memory(HALF_B, context(host_page_bytes=host_page_bytes))
    assert plan.total_bytes == plan.fixed_bytes + host_page_bytes
    assert plan.fixed_bytes == plan_memory(HALF_B, context()).fixed_bytes


def test_a_side_context_takes_what_a_context_of_its_size_takes():
    plan = plan_memory(HALF_B, context(side_tokens=512))
    alone = plan_memory(HALF_B, context(num_cells=512, num_sequences=MAX_SIDE_SEQUENCES + 1))
    assert plan.side_bytes == alone.fixed_bytes - alone.weight_bytes
    assert plan.fixed_bytes == plan_memory(HALF_B, context()).fixed_bytes + plan.side_bytes
