"""A llama.cpp context: memory, the batches that it computes, and the logits that come of them."""

import ctypes

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt

from caravan_engine.backends.batch_arrays import BatchArrays
from caravan_engine.backends.llama_cpp.loading import LoadLog, create_context
from caravan_engine.backends.llama_cpp.settings import LlamaCppSettings
from caravan_engine.domain.ports import BackendFailureError
from caravan_engine.domain.step import StepPlan


class Context:
    """Owned by the decode thread.

    Args:
        settings: Its size.
        model: Whose weights it uses.
        vocabulary_size: Of the model.
        log: What llama.cpp says while the context is made.

    Raises:
        ModelLoadFailedError: if llama.cpp refuses; the model is freed.
    """

    def __init__(
        self, settings: LlamaCppSettings, model: int, *, vocabulary_size: int, log: LoadLog
    ) -> None:
        self.handle = create_context(settings, model, log)
        self.memory = lib.llama_get_memory(self.handle)
        self._num_threads = (
            lib.llama_n_threads(self.handle),
            lib.llama_n_threads_batch(self.handle),
        )
        self._arrays = BatchArrays(settings.batch_tokens)
        self._batch = _native_batch(self._arrays)
        self._logits = _LogitsView(self.handle, vocabulary_size)
        self._vector_size = lib.llama_model_n_embd_out(model)

    def decode(self, plan: StepPlan) -> npt.NDArray[np.float32]:
        """See `domain.ports.Backend`."""
        self._compute(plan)
        return self._logits.rows(sum(1 for _ in plan.sampling()))

    def embed(self, plan: StepPlan) -> npt.NDArray[np.float32]:
        """See `domain.ports.Backend`."""
        lib.llama_set_embeddings(self.handle, True)
        try:
            self._compute(plan)
            rows = lib.llama_get_embeddings(self.handle)
            return np.ctypeslib.as_array(rows, (plan.num_tokens, self._vector_size)).copy()
        finally:
            lib.llama_set_embeddings(self.handle, False)

    def export_sequence(self, seq_id: int) -> npt.NDArray[np.uint8]:
        """Returns a copy of a sequence's memory."""
        size = lib.llama_state_seq_get_size(self.handle, seq_id)
        data = np.empty(size, np.uint8)
        written = lib.llama_state_seq_get_data(self.handle, _bytes_of(data), size, seq_id)
        return data[:written]

    def import_sequence(self, data: npt.NDArray[np.uint8], seq_id: int) -> bool:
        """Gives a sequence the memory of an exported one; returns whether it was possible."""
        read = lib.llama_state_seq_set_data(self.handle, _bytes_of(data), data.size, seq_id)
        return bool(read)

    def clear(self, *, zeroes: bool) -> None:
        """Forgets all sequences, and overwrites what they had if it `zeroes`."""
        lib.llama_memory_clear(self.memory, zeroes)

    def share_cores(self, *, shares: bool) -> None:
        """See `domain.ports.Backend`."""
        now = (max(1, each // 2) if shares else each for each in self._num_threads)
        lib.llama_set_n_threads(self.handle, *now)

    def close(self) -> None:
        """Frees it."""
        lib.llama_free(self.handle)

    def _compute(self, plan: StepPlan) -> None:
        self._batch.n_tokens = self._arrays.fill(plan)
        code = lib.llama_decode(self.handle, self._batch)
        if code != 0:
            raise BackendFailureError(code)


def _bytes_of(data: npt.NDArray[np.uint8]) -> object:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


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
