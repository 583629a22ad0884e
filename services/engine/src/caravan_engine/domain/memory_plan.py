"""How much memory a model will take, before it is loaded."""

from dataclasses import dataclass, replace
from enum import Enum

_FLOAT, _HALF = 4, 2
_ROWS_OF_WIDTH, _ROWS_OF_FFN = 4, 3
_CELL_PADDING = 256

DEFAULT_HOST_PAGES = 4
"""How often the host tier holds what the cells hold, unless it is told a size."""

MAX_EMBEDDED_TOKENS = 64
"""Most tokens of a step that embeds. llama.cpp computes logits for each token whose vector it
gives, so this bounds its buffers: 39 MB with a vocabulary of 152k; 512 tokens would take 311."""

MAX_SIDE_SEQUENCES = 16
"""Most sequences that a side context computes in a step."""


class KvElement(Enum):
    """Bytes and elements of a block of the KV cache."""

    F16 = (2, 1)
    Q8_0 = (34, 32)
    Q4_0 = (18, 32)

    def bytes_of(self, num_elements: int) -> int:
        """Returns the size of so many numbers."""
        num_bytes, block = self.value
        return num_elements * num_bytes // block


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What of a model decides its memory."""

    weight_bytes: int
    num_layers: int
    embedding_size: int
    ffn_size: int
    num_kv_heads: int
    key_size: int  # of one head
    value_size: int
    vocabulary_size: int
    trained_context_tokens: int  # 0: unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextShape:
    """What of a context decides its memory."""

    num_cells: int
    num_sequences: int  # sequence ids; llama.cpp keeps room for an output of each
    ubatch_tokens: int
    key_type: KvElement = KvElement.F16
    value_type: KvElement = KvElement.F16
    side_tokens: int = 0  # cells of the side context; 0: there is none
    host_page_bytes: int | None = None  # None: DEFAULT_HOST_PAGES times the cells


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes by use.

    Weights are counted in full although they are mapped: a model that doesn't stay in memory as a
    whole reads its weights from disk for every token.
    """

    weight_bytes: int
    kv_bytes: int
    compute_bytes: int
    output_bytes: int
    embedding_bytes: int  # by which the outputs grow when something is embedded
    side_bytes: int  # of the side context
    host_page_bytes: int  # pages outside the cells; the model runs with less, or none

    @property
    def fixed_bytes(self) -> int:
        """What it can't run without."""
        outputs = self.output_bytes + self.embedding_bytes
        return self.weight_bytes + self.kv_bytes + self.compute_bytes + outputs + self.side_bytes

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.fixed_bytes + self.host_page_bytes


def plan_memory(model: ModelShape, context: ContextShape) -> MemoryPlan:
    """Estimates what llama.cpp will allocate.

    KV is exact for models that attend to everything; sliding windows and recurrent layers take
    less. Compute buffers follow what llama.cpp reserves for its dense architectures: per token of
    a micro-batch about four rows of the embedding and three of the feed-forward layer, and one
    attention mask over all cells.
    """
    num_cells = -(-context.num_cells // _CELL_PADDING) * _CELL_PADDING
    keys = context.key_type.bytes_of(model.num_kv_heads * model.key_size)
    values = context.value_type.bytes_of(model.num_kv_heads * model.value_size)
    rows = _ROWS_OF_WIDTH * model.embedding_size + _ROWS_OF_FFN * model.ffn_size
    logits = model.vocabulary_size * _FLOAT
    num_embedded = max(context.num_sequences, MAX_EMBEDDED_TOKENS)
    kv_bytes = model.num_layers * num_cells * (keys + values)
    pages = context.host_page_bytes
    mask = num_cells * context.ubatch_tokens * _HALF
    return MemoryPlan(
        weight_bytes=model.weight_bytes,
        kv_bytes=kv_bytes,
        compute_bytes=max(context.ubatch_tokens * rows * _FLOAT, num_embedded * logits) + mask,
        output_bytes=context.num_sequences * logits,
        embedding_bytes=(num_embedded - context.num_sequences) * logits
        + num_embedded * model.embedding_size * _FLOAT,
        side_bytes=_side_bytes(model, context) if context.side_tokens else 0,
        host_page_bytes=DEFAULT_HOST_PAGES * kv_bytes if pages is None else pages,
    )


def _side_bytes(model: ModelShape, context: ContextShape) -> int:
    own = replace(
        context,
        num_cells=context.side_tokens,
        num_sequences=MAX_SIDE_SEQUENCES + 1,
        side_tokens=0,
    )
    return plan_memory(model, own).fixed_bytes - model.weight_bytes
