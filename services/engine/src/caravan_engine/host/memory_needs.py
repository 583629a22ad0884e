"""How much memory a model file will need with the engine's settings, by its header alone."""

from caravan_engine.backends.gguf_file import read_gguf
from caravan_engine.config import ContextSettings
from caravan_engine.domain.memory_plan import ContextShape, KvElement, plan_memory
from caravan_engine.host.registry import ModelFile

# A worker before it loads anything: the interpreter, gRPC, numpy, llama.cpp's code.
PROCESS_BYTES = 64 * 2**20


def needed_bytes(context: ContextSettings, file: ModelFile) -> int:
    """Plans the memory of a worker for `file`. Blocks for as long as reading a header takes.

    Raises:
        ModelFileInvalidError: the file is not a GGUF that can be served.
    """
    plan = plan_memory(
        read_gguf(file.path).shape(),
        ContextShape(
            num_cells=context.cells,
            num_seats=context.seats,
            ubatch_tokens=context.micro_batch or context.token_budget,
            key_type=KvElement[context.key_type.name],
            value_type=KvElement[context.value_type.name],
        ),
    )
    return PROCESS_BYTES + plan.total_bytes
