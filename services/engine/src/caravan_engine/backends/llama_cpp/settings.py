"""How a model is loaded."""

from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import llama_cpp.llama_cpp as lib


class KvType(IntEnum):
    """Storage of keys or values; the quantized ones need a head size divisible by 32."""

    F16 = lib.GGML_TYPE_F16
    Q8_0 = lib.GGML_TYPE_Q8_0
    Q4_0 = lib.GGML_TYPE_Q4_0


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppSettings:
    """How a model is loaded."""

    model_path: Path
    num_cells: int  # n_ctx: KV positions for all sequences together
    num_seats: int  # sequences that compute
    num_shelf_ids: int = 0  # sequence ids that only keep pages; one more is used for moving pages
    can_cut: bool = True  # whether a sequence's memory can be divided at a position
    batch_tokens: int = 2048  # n_batch: most tokens of a step
    ubatch_tokens: int = 512  # n_ubatch: most tokens computed at once
    num_threads: int | None = None  # None: one per core that this process may use
    num_threads_batch: int | None = None  # for prompts; None: as many
    key_type: KvType = KvType.F16
    value_type: KvType = KvType.F16
    side_context: bool = False  # whether prompts may be computed apart from the cells, on a CPU
    gpu_layers: int = -1  # all, where there is a GPU
    use_mmap: bool = True
    repack_weights: bool = True  # faster prompts for a private copy of the weights

    @property
    def num_sequences(self) -> int:
        """All sequence ids (n_seq_max); llama.cpp allows 256."""
        return self.num_seats + self.num_shelf_ids + 1
