"""The backend: one model, one context, and the arrays between numpy and llama.cpp."""

import ctypes
import os
from collections.abc import Mapping, Sequence

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt

from caravan_engine.backends.batch_arrays import BatchArrays
from caravan_engine.backends.kv_state import parse_kv_state
from caravan_engine.backends.llama_cpp.facts import read_facts
from caravan_engine.backends.llama_cpp.loading import LoadLog, Progress, create_context, load_model
from caravan_engine.backends.llama_cpp.sampler_chains import SamplerChains
from caravan_engine.backends.llama_cpp.settings import LlamaCppSettings
from caravan_engine.backends.llama_cpp.vocabulary import LlamaCppVocabulary
from caravan_engine.domain.model_facts import ModelFacts
from caravan_engine.domain.ports import BackendFailureError, CandidateFilter
from caravan_engine.domain.sampling import SamplingOptions
from caravan_engine.domain.step import SharedPrefix, StepPlan


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
        with LoadLog() as log:
            lib.llama_backend_init()
            self.model = load_model(settings, on_progress, log)
            self._context = create_context(settings, self.model, log)
        self.memory = lib.llama_get_memory(self._context)
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

    def candidate_filter(self, options: SamplingOptions) -> CandidateFilter | None:
        """See `domain.ports.Backend`."""
        return None if options.is_greedy else self._chains.get(options)

    def release(self, seq_ids: Sequence[int]) -> None:
        """See `domain.ports.Backend`."""
        for seq_id in seq_ids:
            lib.llama_memory_seq_rm(self.memory, seq_id, -1, -1)

    def share(self, prefixes: Sequence[SharedPrefix]) -> None:
        """See `domain.ports.Backend`."""
        for each in prefixes:
            lib.llama_memory_seq_cp(self.memory, each.source, each.target, 0, each.length)

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
        size = lib.llama_state_seq_get_size(self._context, seq_id)
        data = (ctypes.c_uint8 * size)()
        written = lib.llama_state_seq_get_data(self._context, data, size, seq_id)
        return bytes(data[:written])

    def check_integrity(self, lengths: Mapping[int, int]) -> list[str]:
        """See `domain.ports.IntegrityChecker`."""
        return [
            f"sequence {seq_id}: {fault}"
            for seq_id in range(self._settings.num_seats)
            for fault in self._faults(seq_id, lengths.get(seq_id, 0))
        ]

    def close(self) -> None:
        """See `domain.ports.Backend`."""
        lib.llama_free(self._context)
        lib.llama_model_free(self.model)

    def _faults(self, seq_id: int, length: int) -> list[str]:
        is_empty = lib.llama_memory_seq_pos_max(self.memory, seq_id) < 0
        if is_empty and length == 0:
            return []
        return list(parse_kv_state(self.export_state(seq_id)).faults(length))


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
