"""llama.cpp's own samplers, shared between sequences."""

import ctypes
import threading
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt

from caravan_engine.backends.candidates import TopLogits
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.sampling.token_sampler import UnusableLogitsError

_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
_NEGLIGIBLE_LOGITS = 80.0  # so much less than the best: a probability of 1e-35


class _NativeChain:
    """llama.cpp's samplers in a row; none of them keeps anything from one call to the next."""

    def __init__(self, samplers: Iterable[int]) -> None:
        self._chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        for sampler in samplers:
            lib.llama_sampler_chain_add(self._chain, sampler)
        weakref.finalize(self, lib.llama_sampler_free, self._chain)

    def apply(self, array: object) -> None:
        lib.llama_sampler_apply(self._chain, array)


class SamplerChain:
    """llama.cpp's top-k, typical, top-p, min-p, XTC and temperature for one set of options.

    As nothing is kept between calls, all sequences with equal options share it. Of XTC only what
    it drops is llama.cpp's, not when: one chain always drops, one never.
    """

    def __init__(
        self, options: SamplingOptions, top: TopLogits, scratch: npt.NDArray[np.void]
    ) -> None:
        self._top = top
        self._data = scratch
        self._ids, self._logits = scratch["id"], scratch["logit"]
        self._pointer: Any = scratch.ctypes.data_as(ctypes.POINTER(lib.llama_token_data))
        self._array = lib.llama_token_data_array(data=self._pointer, selected=-1)
        self._reference = ctypes.byref(self._array)
        self._is_typical = options.typical_p < 1 and options.mirostat is None
        self._plain = _NativeChain(_samplers(options, excludes_top=False))
        self._excluding = (
            _NativeChain(_samplers(options, excludes_top=True)) if options.has_xtc else self._plain
        )

    def narrow(
        self, logits: npt.NDArray[np.float32], *, excludes_top: bool
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        """See `domain.ports.CandidateFilter`."""
        ids = self._candidates(logits)
        count = ids.size
        if count == 0:
            raise UnusableLogitsError
        self._ids[:count] = ids
        self._logits[:count] = logits[ids]
        array = self._array
        array.size, array.sorted = count, False
        if not excludes_top:
            self._plain.apply(self._reference)
            return self._ids[: array.size], self._logits[: array.size]
        array.data = self._pointer  # XTC moves it
        self._excluding.apply(self._reference)
        kept = slice(first := self._num_skipped(), first + array.size)
        array.data = self._pointer
        return self._ids[kept], self._logits[kept]

    def _candidates(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
        ids = self._top.ids(logits)
        if self._is_typical and ids.size:  # which sorts by the logarithm of a probability: not of 0
            found = logits[ids]
            ids = ids[found > found.max() - _NEGLIGIBLE_LOGITS]
        return ids

    def _num_skipped(self) -> int:
        start = ctypes.cast(self._array.data, ctypes.c_void_p).value or 0
        return int(start - self._data.ctypes.data) // self._data.itemsize


def _samplers(options: SamplingOptions, *, excludes_top: bool) -> Iterator[int]:
    yield lib.llama_sampler_init_top_k(options.num_candidates)
    if options.mirostat is None:
        if options.typical_p < 1:
            yield lib.llama_sampler_init_typical(options.typical_p, 1)
        yield lib.llama_sampler_init_top_p(options.top_p, 1)
        yield lib.llama_sampler_init_min_p(options.min_p, 1)
        if excludes_top:
            yield lib.llama_sampler_init_xtc(1.0, options.xtc.threshold, 1, 0)
    yield lib.llama_sampler_init_temp(options.temperature)
    if options.typical_p < 1 and options.mirostat is None:  # typical leaves its own order
        yield lib.llama_sampler_init_top_k(options.num_candidates)


def _key(options: SamplingOptions) -> tuple[object, ...]:
    """Returns what a chain depends on."""
    if options.mirostat:
        return ("mirostat", options.temperature)
    probabilities = (options.typical_p, options.top_p, options.min_p)
    threshold = options.xtc.threshold if options.has_xtc else None
    return (options.num_candidates, *probabilities, threshold, options.temperature)


class SamplerChains:
    """One chain per distinct options, as long as somebody uses it. Usable from any thread."""

    def __init__(self, vocabulary_size: int) -> None:
        self._vocabulary_size = vocabulary_size
        self._scratch = np.zeros(vocabulary_size, _TOKEN_DATA)  # only narrow() touches it
        self._lock = threading.Lock()
        self._chains: weakref.WeakValueDictionary[tuple[object, ...], SamplerChain] = (
            weakref.WeakValueDictionary()
        )

    def get(self, options: SamplingOptions) -> SamplerChain:
        """Returns the chain for `options`."""
        key = _key(options)
        with self._lock:
            chain = self._chains.get(key)
            if chain is None:
                top = TopLogits(self._vocabulary_size, options.num_candidates)
                chain = self._chains[key] = SamplerChain(options, top, self._scratch)
            return chain
