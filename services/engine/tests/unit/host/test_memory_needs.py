import pytest

from caravan_engine.config import ContextSettings, KvSettings, KvType
from caravan_engine.domain.memory_plan import ModelShape
from caravan_engine.host.memory_needs import memory_need

SHAPE = ModelShape(
    weight_bytes=1_000_000,
    num_layers=2,
    embedding_size=64,
    ffn_size=128,
    num_kv_heads=2,
    key_size=32,
    value_size=32,
    vocabulary_size=1000,
    trained_context_tokens=2048,
)
KV_BYTES = 2 * 8192 * 2 * 64 * 2


def need(context=None, **kv):
    return memory_need(ContextSettings(**(context or {})), KvSettings(**kv), SHAPE)


def test_pages_want_four_times_the_cells_or_what_the_operator_says():
    assert need().host_page_bytes == 4 * KV_BYTES
    assert need(host_budget_bytes=5).host_page_bytes == 5
    assert need().fixed_bytes == need(host_budget_bytes=5).fixed_bytes > KV_BYTES


def test_the_disk_tier_needs_memory_for_what_waits_to_be_written():
    assert need(disk_budget_bytes=1).fixed_bytes - need().fixed_bytes == 64 * 2**20


@pytest.mark.parametrize(
    ("context", "kv"),
    [({"side_context": False}, {}), ({}, {"paged": False}), ({"key_type": KvType.Q8_0}, {})],
)
def test_a_side_context_needs_memory_where_there_may_be_one(context, kv):
    without = need({**context, "side_context": False}, **kv).fixed_bytes
    assert need(context, **kv).fixed_bytes == without
    assert need().fixed_bytes > need({"side_context": False}).fixed_bytes
