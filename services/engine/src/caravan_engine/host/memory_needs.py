"""How much memory a model will need with the engine's settings, by its file's header alone."""

from caravan_engine.config import (
    DISK_QUEUE_BYTES,
    SCRATCH_SEQUENCE_IDS,
    ContextSettings,
    KvSettings,
    KvType,
)
from caravan_engine.domain.memory_plan import ContextShape, KvElement, ModelShape, plan_memory
from caravan_engine.host.placement import MemoryNeed

# A worker before it loads anything: the interpreter, gRPC, numpy, llama.cpp's code.
PROCESS_BYTES = 64 * 2**20


def memory_need(context: ContextSettings, kv: KvSettings, shape: ModelShape) -> MemoryNeed:
    """Plans the memory of a worker for a model of `shape`."""
    plan = plan_memory(
        shape,
        ContextShape(
            num_cells=context.cells,
            num_sequences=context.seats + kv.resident_sequences + SCRATCH_SEQUENCE_IDS,
            ubatch_tokens=context.micro_batch or context.token_budget,
            key_type=KvElement[context.key_type.name],
            value_type=KvElement[context.value_type.name],
            side_tokens=context.token_budget if _has_side_context(context, kv) else 0,
            host_page_bytes=kv.host_budget_bytes,
        ),
    )
    queue_bytes = DISK_QUEUE_BYTES if kv.disk_budget_bytes else 0
    return MemoryNeed(PROCESS_BYTES + plan.fixed_bytes + queue_bytes, plan.host_page_bytes)


def _has_side_context(context: ContextSettings, kv: KvSettings) -> bool:
    """Whether there is one on a CPU; whoever computes elsewhere has planned a little too much."""
    is_plain = context.key_type == context.value_type == KvType.F16
    return context.side_context and kv.paged and is_plain
