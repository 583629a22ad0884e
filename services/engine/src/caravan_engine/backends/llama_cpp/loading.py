"""Loads a model and makes its context; sends llama.cpp's log to ours."""

import ctypes
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import llama_cpp.llama_cpp as lib

from caravan_engine.backends.llama_cpp.facts import read_metadata
from caravan_engine.backends.llama_cpp.settings import LlamaCppSettings
from caravan_engine.domain.errors import ModelLoadFailedError
from caravan_engine.domain.memory_plan import MAX_EMBEDDED_TOKENS

_log = logging.getLogger(__name__)

_GGML_INFO, _GGML_WARN, _GGML_ERROR = 2, 3, 4
_LEVELS = {_GGML_INFO: logging.DEBUG, _GGML_WARN: logging.WARNING, _GGML_ERROR: logging.ERROR}

Progress = Callable[[float], None]


def load_model(settings: LlamaCppSettings, on_progress: Progress | None, log: "LoadLog") -> int:
    """Maps the weights and returns llama.cpp's handle.

    Raises:
        ModelLoadFailedError: if llama.cpp refuses the file, or the model can't generate.
    """
    params = lib.llama_model_default_params()
    params.n_gpu_layers = settings.gpu_layers
    params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if settings.use_mmap else lib.LLAMA_LOAD_MODE_NONE
    params.use_extra_bufts = settings.repack_weights
    report = _progress_callback(on_progress)  # a name of ours keeps it alive while C calls it
    params.progress_callback = report
    model: int | None = lib.llama_model_load_from_file(os.fsencode(settings.model_path), params)
    if not model:
        raise log.refusal("the model", settings.model_path)
    if lib.llama_model_has_encoder(model) or not lib.llama_model_has_decoder(model):
        lib.llama_model_free(model)
        raise ModelLoadFailedError("the model has an encoder; only decoders can generate here")
    return model


def create_context(settings: LlamaCppSettings, model: int, log: "LoadLog") -> int:
    """Allocates KV cells and compute buffers and returns llama.cpp's handle.

    Raises:
        ModelLoadFailedError: if llama.cpp refuses; the model is freed.
    """
    num_threads = settings.num_threads or len(os.sched_getaffinity(0))
    params = lib.llama_context_default_params()
    params.n_ctx = settings.num_cells
    params.n_batch = settings.batch_tokens
    params.n_ubatch = settings.ubatch_tokens
    params.n_seq_max = settings.num_sequences
    # llama.cpp keeps room for an output of each sequence id; a step that embeds has more.
    params.n_outputs_max = max(
        settings.num_sequences, min(MAX_EMBEDDED_TOKENS, settings.batch_tokens)
    )
    if any(key.endswith(".pooling_type") for key in read_metadata(model)):
        params.pooling_type = lib.LLAMA_POOLING_TYPE_NONE  # we pool: theirs forgets earlier chunks
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


class LoadLog:
    """Sends llama.cpp's log to ours; while loading it also keeps the first error.

    After loading only warnings and errors pass: what llama.cpp says while it computes may quote
    tokens.
    """

    _callbacks: list[object] = []  # noqa: RUF012 (C holds the pointer as long as the process lives)

    def __init__(self) -> None:
        self._error: str | None = None
        self._is_loading = False

    def __enter__(self) -> "LoadLog":
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
