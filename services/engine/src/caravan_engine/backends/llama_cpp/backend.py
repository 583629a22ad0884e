"""The backend: one model, one context, and the arrays between numpy and llama.cpp."""

import os
from collections.abc import Mapping, Sequence

import llama_cpp
import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt

from caravan_engine.backends.kv_state import parse_kv_state, sort_by_position
from caravan_engine.backends.llama_cpp.context import Context
from caravan_engine.backends.llama_cpp.devices import device_memory, num_layers_on_devices
from caravan_engine.backends.llama_cpp.facts import can_cut, read_facts
from caravan_engine.backends.llama_cpp.loading import LoadLog, Progress, load_model
from caravan_engine.backends.llama_cpp.sampler_chains import SamplerChains
from caravan_engine.backends.llama_cpp.settings import KvType, LlamaCppSettings
from caravan_engine.backends.llama_cpp.side_context import SideContext
from caravan_engine.backends.llama_cpp.vocabulary import LlamaCppVocabulary
from caravan_engine.domain.model_facts import DeviceMemory, ModelFacts
from caravan_engine.domain.paging.page_image import PageImage
from caravan_engine.domain.ports import CandidateFilter
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.scheduling.side_limits import SideLimits
from caravan_engine.domain.step import StepPlan

_ALL = -1
_ATTENTION_TILE = 64  # tokens


class LlamaCppBackend:
    """Implements `domain.ports.Backend` and `IntegrityChecker`; see there for threads.

    Args:
        settings: How to load.
        on_progress: Called while loading with the fraction done, on the calling thread.

    Raises:
        ModelLoadFailedError: if llama.cpp refuses the file or the memory for it.
    """

    def __init__(self, settings: LlamaCppSettings, on_progress: Progress | None = None) -> None:
        os.environ["GGML_NO_BACKTRACE"] = "1"  # a debugger must not open in a dying worker
        self._settings = settings
        self._scratch = settings.num_sequences - 1
        self._side: SideContext | None = None
        with LoadLog() as log:
            lib.llama_backend_init()
            self.model = load_model(settings, on_progress, log)
            self.vocabulary = LlamaCppVocabulary(self.model)
            size = self.vocabulary.size
            self._context = Context(settings, self.model, vocabulary_size=size, log=log)
            self.can_cut = settings.can_cut and can_cut(self.model)
            if settings.side_context and self.can_cut and self.attention_tile:
                self._side = SideContext(settings, self.model, self._context, size, log)
        self.memory = self._context.memory
        self._chains = SamplerChains(size)

    @property
    def facts(self) -> ModelFacts:
        """What the model says of itself."""
        return read_facts(self.model, self._context.handle, self.vocabulary)

    @property
    def layout(self) -> bytes:
        """What the bytes of an exported page depend on, beside the model and the types."""
        return f"llama-cpp-python {llama_cpp.__version__}; cut {self.can_cut}".encode()

    @property
    def has_device_memory(self) -> bool:
        """Whether cells lie in the memory of a device, where idle ones cost no time."""
        return bool(self.devices())

    @property
    def num_gpu_layers(self) -> int:
        """Layers of the model that are on devices."""
        return num_layers_on_devices(
            lib.llama_model_n_layer(self.model),
            self._settings.gpu_layers,
            has_device=self.has_device_memory,
        )

    def devices(self) -> list[DeviceMemory]:
        """Returns how the memory of the devices stands that hold a part of the model."""
        return device_memory() if self._settings.gpu_layers else []

    @property
    def attention_tile(self) -> int | None:
        """Tokens of a batch for which attention is computed together; None: it isn't.

        That is how ggml does it on a CPU, from one tile on, with unquantized memory
        (GGML_FA_TILE_Q in its `ggml-cpu/common.h`).
        """
        types = {self._settings.key_type, self._settings.value_type}
        return _ATTENTION_TILE if not self.has_device_memory and types == {KvType.F16} else None

    def candidate_filter(self, options: SamplingOptions) -> CandidateFilter | None:
        """See `domain.ports.Backend`."""
        return None if options.is_greedy else self._chains.get(options)

    def release(self, seq_id: int, start: int = 0, end: int | None = None) -> None:
        """See `domain.ports.Backend`."""
        lib.llama_memory_seq_rm(self.memory, seq_id, start, _ALL if end is None else end)

    def share(self, source: int, target: int, start: int, end: int) -> None:
        """See `domain.ports.Backend`."""
        lib.llama_memory_seq_cp(self.memory, source, target, start, end)

    def export_page(self, seq_id: int, start: int, end: int) -> memoryview:
        """See `domain.ports.Backend`.

        llama.cpp only copies whole sequences: the range is lent to another one for that.
        """
        if not self.can_cut:
            return self._context.export_sequence(seq_id).data
        self.share(seq_id, self._scratch, start, end)
        try:
            data = self._context.export_sequence(self._scratch)
            sort_by_position(data)
            return data.data
        finally:
            self.release(self._scratch)

    def import_page(self, image: PageImage, seq_id: int, start: int, end: int) -> bool:
        """See `domain.ports.Backend`."""
        target = self._scratch if self.can_cut else seq_id
        if not self._context.import_sequence(np.frombuffer(image.data, np.uint8), target):
            return False
        if target != seq_id:
            self.share(target, seq_id, start, end)
            self.release(target)
        return True

    def wipe(self) -> None:
        """See `domain.ports.Backend`."""
        self._context.clear(zeroes=True)
        if self._side:
            self._side.wipe()

    @property
    def side_limits(self) -> SideLimits | None:
        """What may be computed aside; None: nothing."""
        return self._side.limits if self._side else None

    def decode(self, plan: StepPlan) -> npt.NDArray[np.float32]:
        """See `domain.ports.Backend`."""
        if plan.is_aside and self._side:
            return self._side.decode(plan)
        return self._context.decode(plan)

    def embed(self, plan: StepPlan) -> npt.NDArray[np.float32]:
        """See `domain.ports.Backend`."""
        return self._context.embed(plan)

    def export_state(self, seq_id: int) -> bytes:
        """Returns a copy of a sequence's memory; `kv_state` reads it."""
        return self._context.export_sequence(seq_id).tobytes()

    def cell_order(self, seq_id: int) -> tuple[int, ...]:
        """Returns the positions of a sequence in the order of their cells."""
        return parse_kv_state(self.export_state(seq_id)).positions

    def check_integrity(self, positions: Mapping[int, Sequence[int]]) -> list[str]:
        """See `domain.ports.IntegrityChecker`."""
        return [
            f"sequence {seq_id}: {fault}"
            for seq_id in range(self._settings.num_sequences)
            for fault in self._faults(seq_id, positions.get(seq_id, ()))
        ]

    def share_cores(self, *, shares: bool) -> None:
        """See `domain.ports.Backend`."""
        self._context.share_cores(shares=shares)
        if self._side:
            self._side.share_cores(shares=shares)

    def close(self) -> None:
        """See `domain.ports.Backend`."""
        if self._side:
            self._side.close()
        self._context.close()
        lib.llama_model_free(self.model)

    def _faults(self, seq_id: int, positions: Sequence[int]) -> list[str]:
        is_empty = lib.llama_memory_seq_pos_max(self.memory, seq_id) < 0
        if is_empty and not positions:
            return []
        return list(parse_kv_state(self.export_state(seq_id)).faults(positions))
