"""The backend: one model, one context, and the arrays between numpy and llama.cpp."""

import ctypes
import os
from collections.abc import Mapping, Sequence

import llama_cpp
import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt

from caravan_engine.backends.batch_arrays import BatchArrays
from caravan_engine.backends.kv_state import parse_kv_state, sort_by_position
from caravan_engine.backends.llama_cpp.devices import device_memory, num_layers_on_devices
from caravan_engine.backends.llama_cpp.facts import can_cut, read_facts
from caravan_engine.backends.llama_cpp.loading import LoadLog, Progress, create_context, load_model
from caravan_engine.backends.llama_cpp.sampler_chains import SamplerChains
from caravan_engine.backends.llama_cpp.settings import KvType, LlamaCppSettings
from caravan_engine.backends.llama_cpp.vocabulary import LlamaCppVocabulary
from caravan_engine.domain.model_facts import DeviceMemory, ModelFacts
from caravan_engine.domain.paging.page_image import PageImage
from caravan_engine.domain.ports import BackendFailureError, CandidateFilter
from caravan_engine.domain.sampling.options import SamplingOptions
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
        with LoadLog() as log:
            lib.llama_backend_init()
            self.model = load_model(settings, on_progress, log)
            self._context = create_context(settings, self.model, log)
        self.can_cut = settings.can_cut and can_cut(self.model)
        self.memory = lib.llama_get_memory(self._context)
        context = self._context
        self._num_threads = (lib.llama_n_threads(context), lib.llama_n_threads_batch(context))
        self.vocabulary = LlamaCppVocabulary(self.model)
        self._arrays = BatchArrays(settings.batch_tokens)
        self._batch = _native_batch(self._arrays)
        self._logits = _LogitsView(self._context, self.vocabulary.size)
        self._vector_size = lib.llama_model_n_embd_out(self.model)
        self._chains = SamplerChains(self.vocabulary.size)

    @property
    def facts(self) -> ModelFacts:
        """What the model says of itself."""
        return read_facts(self.model, self._context, self.vocabulary)

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
            return self._export(seq_id).data
        self.share(seq_id, self._scratch, start, end)
        try:
            data = self._export(self._scratch)
            sort_by_position(data)
            return data.data
        finally:
            self.release(self._scratch)

    def import_page(self, image: PageImage, seq_id: int, start: int, end: int) -> bool:
        """See `domain.ports.Backend`."""
        target = self._scratch if self.can_cut else seq_id
        data = np.frombuffer(image.data, np.uint8)
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        if lib.llama_state_seq_set_data(self._context, pointer, data.size, target) == 0:
            return False
        if target != seq_id:
            self.share(target, seq_id, start, end)
            self.release(target)
        return True

    def wipe(self) -> None:
        """See `domain.ports.Backend`."""
        lib.llama_memory_clear(self.memory, True)

    def decode(self, plan: StepPlan) -> npt.NDArray[np.float32]:
        """See `domain.ports.Backend`."""
        self._batch.n_tokens = self._arrays.fill(plan)
        code = lib.llama_decode(self._context, self._batch)
        if code != 0:
            raise BackendFailureError(code)
        return self._logits.rows(sum(1 for _ in plan.sampling()))

    def embed(self, plan: StepPlan) -> npt.NDArray[np.float32]:
        """See `domain.ports.Backend`."""
        lib.llama_set_embeddings(self._context, True)
        try:
            self._batch.n_tokens = num_tokens = self._arrays.fill(plan)
            code = lib.llama_decode(self._context, self._batch)
            if code != 0:
                raise BackendFailureError(code)
            rows = lib.llama_get_embeddings(self._context)
            return np.ctypeslib.as_array(rows, (num_tokens, self._vector_size)).copy()
        finally:
            lib.llama_set_embeddings(self._context, False)

    def export_state(self, seq_id: int) -> bytes:
        """Returns a copy of a sequence's memory; `kv_state` reads it."""
        return self._export(seq_id).tobytes()

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
        now = (max(1, each // 2) if shares else each for each in self._num_threads)
        lib.llama_set_n_threads(self._context, *now)

    def close(self) -> None:
        """See `domain.ports.Backend`."""
        lib.llama_free(self._context)
        lib.llama_model_free(self.model)

    def _export(self, seq_id: int) -> npt.NDArray[np.uint8]:
        size = lib.llama_state_seq_get_size(self._context, seq_id)
        data = np.empty(size, np.uint8)
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        written = lib.llama_state_seq_get_data(self._context, pointer, size, seq_id)
        return data[:written]

    def _faults(self, seq_id: int, positions: Sequence[int]) -> list[str]:
        is_empty = lib.llama_memory_seq_pos_max(self.memory, seq_id) < 0
        if is_empty and not positions:
            return []
        return list(parse_kv_state(self.export_state(seq_id)).faults(positions))


def _native_batch(arrays: BatchArrays) -> "lib.llama_batch":
    def pointer(array: npt.NDArray[np.generic], kind: type) -> object:
        return array.ctypes.data_as(ctypes.POINTER(kind))

    return lib.llama_batch(
        n_tokens=0,
        token=pointer(arrays.tokens, ctypes.c_int32),
        embd=None,
        pos=pointer(arrays.positions, ctypes.c_int32),
        n_seq_id=pointer(arrays.num_seq_ids, ctypes.c_int32),
        seq_id=pointer(arrays.seq_id_pointers, ctypes.POINTER(ctypes.c_int32)),
        logits=pointer(arrays.outputs, ctypes.c_int8),
    )


class _LogitsView:
    """llama.cpp's output buffer as an array; it moves when it grows, so its address is watched."""

    def __init__(self, context: int, vocabulary_size: int) -> None:
        self._context = context
        self._vocabulary_size = vocabulary_size
        self._address = 0
        self._rows = np.empty((0, vocabulary_size), np.float32)

    def rows(self, num_rows: int) -> npt.NDArray[np.float32]:
        if num_rows == 0:
            return self._rows[:0]
        pointer = lib.llama_get_logits(self._context)
        address = ctypes.addressof(pointer.contents)
        if address != self._address or num_rows > len(self._rows):
            self._rows = np.ctypeslib.as_array(pointer, (num_rows, self._vocabulary_size))
            self._address = address
        return self._rows[:num_rows]
