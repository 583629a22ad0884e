"""llama.cpp through the low-level API of llama-cpp-python; nobody else imports `llama_cpp`.

One model and one context with unified KV. Knows nothing of requests, text limits or scheduling.
"""

import ctypes
import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt

from caravan_engine.backends.batch_arrays import BatchArrays
from caravan_engine.backends.candidates import TopLogits
from caravan_engine.backends.kv_state import parse_kv_state
from caravan_engine.domain.errors import ModelLoadFailedError
from caravan_engine.domain.model_facts import ModelFacts, Pooling
from caravan_engine.domain.ports import BackendFailureError, CandidateFilter
from caravan_engine.domain.sampling import SamplingOptions
from caravan_engine.domain.step import StepPlan
from caravan_engine.domain.token_sampler import UnusableLogitsError

_log = logging.getLogger(__name__)

_POOLINGS = {0: Pooling.NONE, 1: Pooling.MEAN, 2: Pooling.CLS, 3: Pooling.LAST, 4: Pooling.RANK}
_GGML_INFO, _GGML_WARN, _GGML_ERROR = 2, 3, 4
_LEVELS = {_GGML_INFO: logging.DEBUG, _GGML_WARN: logging.WARNING, _GGML_ERROR: logging.ERROR}
_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

Progress = Callable[[float], None]


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
    num_seats: int  # n_seq_max, at most 256
    batch_tokens: int = 2048  # n_batch: most tokens of a step
    ubatch_tokens: int = 512  # n_ubatch: most tokens computed at once
    num_threads: int | None = None  # None: one per core that this process may use
    num_threads_batch: int | None = None  # for prompts; None: as many
    key_type: KvType = KvType.F16
    value_type: KvType = KvType.F16
    gpu_layers: int = -1  # all, where there is a GPU
    use_mmap: bool = True
    repack_weights: bool = True  # faster prompts for a private copy of the weights


class LlamaCppVocabulary:
    """Implements `domain.ports.Vocabulary`; read-only, so any thread may use it."""

    def __init__(self, model: int) -> None:
        self._vocab = lib.llama_model_get_vocab(model)
        self.size: int = lib.llama_vocab_n_tokens(self._vocab)
        ids = range(self.size)
        self.end_tokens = frozenset(i for i in ids if lib.llama_vocab_is_eog(self._vocab, i))
        self.control_tokens = frozenset(
            i for i in ids if lib.llama_vocab_is_control(self._vocab, i)
        )
        self.control_texts = {i: self._text(i) for i in ids if self._is_masked(i)}
        self.pieces: tuple[bytes, ...] = tuple(map(self._piece, ids))
        self.bos = _token_or_none(lib.llama_vocab_bos(self._vocab))
        self.eos = _token_or_none(lib.llama_vocab_eos(self._vocab))

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        """See `domain.ports.Vocabulary`."""
        data = text.encode()
        capacity = len(data) + 8
        while True:
            tokens = (ctypes.c_int32 * capacity)()
            count: int = lib.llama_tokenize(
                self._vocab, data, len(data), tokens, capacity, add_special, parse_special
            )
            if count >= 0:
                return tokens[:count]
            capacity = -count

    def _is_masked(self, token: int) -> bool:
        """Whether the token counts only where `parse_special` is set, as llama.cpp decides it."""
        masked: int = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_UNKNOWN
        return bool(lib.llama_vocab_get_attr(self._vocab, token) & masked)

    def _text(self, token: int) -> str:
        text: bytes = lib.llama_vocab_get_text(self._vocab, token)
        return text.decode(errors="replace")

    def _piece(self, token: int) -> bytes:
        capacity = 64
        while True:
            buffer = ctypes.create_string_buffer(capacity)
            count: int = lib.llama_token_to_piece(self._vocab, token, buffer, capacity, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            capacity = -count


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
        with _LoadLog() as log:
            lib.llama_backend_init()
            self._model = _load_model(settings, on_progress, log)
            self._context = _create_context(settings, self._model, log)
        self.memory = lib.llama_get_memory(self._context)
        self.vocabulary = LlamaCppVocabulary(self._model)
        self._arrays = BatchArrays(settings.batch_tokens)
        self._batch = _native_batch(self._arrays)
        self._logits = _LogitsView(self._context, self.vocabulary.size)
        self._filters = _FilterCache(self.vocabulary.size)

    @property
    def facts(self) -> ModelFacts:
        """What the model says of itself."""
        model, metadata = self._model, _metadata(self._model)
        return ModelFacts(
            architecture=metadata.get("general.architecture", "unknown"),
            description=_text(lib.llama_model_desc, model),
            num_parameters=lib.llama_model_n_params(model),
            size_bytes=lib.llama_model_size(model),
            num_layers=lib.llama_model_n_layer(model),
            embedding_size=lib.llama_model_n_embd(model),
            trained_context_tokens=lib.llama_model_n_ctx_train(model),
            num_cells=lib.llama_n_ctx(self._context),
            chat_template=_chat_template(model),
            bos=self.vocabulary.bos,
            eos=self.vocabulary.eos,
            has_encoder=lib.llama_model_has_encoder(model),
            is_recurrent=lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model),
            pooling=_POOLINGS.get(lib.llama_pooling_type(self._context), Pooling.UNSPECIFIED),
            metadata=metadata,
        )

    def candidate_filter(self, options: SamplingOptions) -> CandidateFilter | None:
        """See `domain.ports.Backend`."""
        return None if options.is_greedy else self._filters.get(options)

    def release(self, seq_ids: Sequence[int]) -> None:
        """See `domain.ports.Backend`."""
        for seq_id in seq_ids:
            lib.llama_memory_seq_rm(self.memory, seq_id, -1, -1)

    def decode(self, plan: StepPlan) -> npt.NDArray[np.float32]:
        """See `domain.ports.Backend`."""
        self._batch.n_tokens = self._arrays.fill(plan)
        code = lib.llama_decode(self._context, self._batch)
        if code != 0:
            raise BackendFailureError(code)
        return self._logits.rows(sum(1 for _ in plan.sampling()))

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
        lib.llama_model_free(self._model)

    def _faults(self, seq_id: int, length: int) -> list[str]:
        is_empty = lib.llama_memory_seq_pos_max(self.memory, seq_id) < 0
        if is_empty and length == 0:
            return []
        return list(parse_kv_state(self.export_state(seq_id)).faults(length))


# ── loading ──


def _load_model(settings: LlamaCppSettings, on_progress: Progress | None, log: "_LoadLog") -> int:
    params = lib.llama_model_default_params()
    params.n_gpu_layers = settings.gpu_layers
    params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if settings.use_mmap else lib.LLAMA_LOAD_MODE_NONE
    params.use_extra_bufts = settings.repack_weights
    params.progress_callback = callback = _progress_callback(on_progress)
    model: int | None = lib.llama_model_load_from_file(os.fsencode(settings.model_path), params)
    del callback  # until here llama.cpp held the only other reference
    if not model:
        raise log.refusal("the model", settings.model_path)
    if lib.llama_model_has_encoder(model) or not lib.llama_model_has_decoder(model):
        lib.llama_model_free(model)
        raise ModelLoadFailedError("the model has an encoder; only decoders can generate here")
    return model


def _create_context(settings: LlamaCppSettings, model: int, log: "_LoadLog") -> int:
    num_threads = settings.num_threads or len(os.sched_getaffinity(0))
    params = lib.llama_context_default_params()
    params.n_ctx = settings.num_cells
    params.n_batch = settings.batch_tokens
    params.n_ubatch = settings.ubatch_tokens
    params.n_seq_max = settings.num_seats
    params.n_outputs_max = settings.num_seats  # a step samples once per seat at most
    params.n_threads = num_threads
    params.n_threads_batch = settings.num_threads_batch or num_threads
    params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
    params.type_k, params.type_v = settings.key_type, settings.value_type
    params.kv_unified = True
    params.no_perf = True
    context: int | None = lib.llama_init_from_model(model, params)
    if not context:
        lib.llama_model_free(model)
        raise log.refusal("a context", settings.model_path)
    return context


def _progress_callback(on_progress: Progress | None) -> object:
    def report(fraction: float, _: object) -> bool:
        with suppress(Exception):  # nothing may raise across the border to C
            if on_progress:
                on_progress(fraction)
        return True

    return lib.llama_progress_callback(report)


class _LoadLog:
    """Sends llama.cpp's log to ours; while loading it also keeps the first error.

    After loading only warnings and errors pass: what llama.cpp says while it computes may quote
    tokens.
    """

    _callbacks: list[object] = []  # noqa: RUF012 (C holds the pointer as long as the process lives)

    def __init__(self) -> None:
        self._error: str | None = None
        self._is_loading = False

    def __enter__(self) -> "_LoadLog":
        self._is_loading = True
        callback = lib.llama_log_callback(self._receive)
        self._callbacks.append(callback)
        lib.llama_log_set(callback, ctypes.c_void_p(None))
        return self

    def __exit__(self, *_: object) -> None:
        self._is_loading = False

    def refusal(self, what: str, path: Path) -> ModelLoadFailedError:
        """Returns the error for a load that failed, without the server's path."""
        cause = (self._error or "no cause given").replace(str(path), path.name)
        return ModelLoadFailedError(f"llama.cpp refused {what}: {cause}")

    def _receive(self, level: int, text: bytes, _: object) -> None:
        with suppress(Exception):  # nothing may raise across the border to C
            if level not in _LEVELS or (level == _GGML_INFO and not self._is_loading):
                return
            line = text.decode(errors="replace").strip()
            if level == _GGML_ERROR and self._error is None:
                self._error = line
            _log.log(_LEVELS[level], "llama.cpp: %s", line)


# ── the context's arrays ──


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


# ── sampling ──


class _SamplerChain:
    """llama.cpp's top-k, top-p, min-p and temperature for one set of options.

    None of them keeps anything from one call to the next, so all sequences with equal options
    share a chain.
    """

    def __init__(
        self, options: SamplingOptions, top: TopLogits, scratch: npt.NDArray[np.void]
    ) -> None:
        self._top = top
        self._data = scratch
        self._ids, self._logits = scratch["id"], scratch["logit"]
        self._array = lib.llama_token_data_array(
            data=scratch.ctypes.data_as(ctypes.POINTER(lib.llama_token_data)), selected=-1
        )
        self._reference = ctypes.byref(self._array)
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for sampler in (
            lib.llama_sampler_init_top_k(options.num_candidates),
            lib.llama_sampler_init_top_p(options.top_p, 1),
            lib.llama_sampler_init_min_p(options.min_p, 1),
            lib.llama_sampler_init_temp(options.temperature),
        ):
            lib.llama_sampler_chain_add(self._chain, sampler)
        weakref.finalize(self, lib.llama_sampler_free, self._chain)

    def narrow(
        self, logits: npt.NDArray[np.float32]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """See `domain.ports.CandidateFilter`."""
        ids = self._top.ids(logits)
        count = ids.size
        if count == 0:
            raise UnusableLogitsError
        self._ids[:count] = ids
        self._logits[:count] = logits[ids]
        self._array.size, self._array.sorted = count, False
        lib.llama_sampler_apply(self._chain, self._reference)
        kept = self._array.size
        return self._ids[:kept], self._logits[:kept]


class _FilterCache:
    """One chain per distinct options, as long as somebody uses it. Usable from any thread."""

    def __init__(self, vocabulary_size: int) -> None:
        self._vocabulary_size = vocabulary_size
        self._scratch = np.zeros(vocabulary_size, _TOKEN_DATA)  # only narrow() touches it
        self._lock = threading.Lock()
        self._chains: weakref.WeakValueDictionary[tuple[float, ...], _SamplerChain] = (
            weakref.WeakValueDictionary()
        )

    def get(self, options: SamplingOptions) -> _SamplerChain:
        key = (options.num_candidates, options.top_p, options.min_p, options.temperature)
        with self._lock:
            chain = self._chains.get(key)
            if chain is None:
                top = TopLogits(self._vocabulary_size, options.num_candidates)
                chain = self._chains[key] = _SamplerChain(options, top, self._scratch)
            return chain


# ── metadata ──


def _token_or_none(token: int) -> int | None:
    return None if token == lib.LLAMA_TOKEN_NULL else token


def _text(read: Callable[..., int], *arguments: object) -> str:
    """Calls a function that fills a buffer and returns how long the text is."""
    capacity = 256
    while True:
        buffer = ctypes.create_string_buffer(capacity)
        length = read(*arguments, buffer, capacity)
        if length < capacity:
            return buffer.value.decode(errors="replace")
        capacity = length + 1


def _metadata(model: int) -> dict[str, str]:
    return {
        _text(lib.llama_model_meta_key_by_index, model, index): _text(
            lib.llama_model_meta_val_str_by_index, model, index
        )
        for index in range(lib.llama_model_meta_count(model))
    }


def _chat_template(model: int) -> str | None:
    template: bytes | None = lib.llama_model_chat_template(model, None)
    return template.decode(errors="replace") if template else None
