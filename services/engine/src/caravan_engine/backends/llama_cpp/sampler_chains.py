"""llama.cpp's own samplers, shared between sequences."""

import ctypes
import threading
import weakref

import llama_cpp.llama_cpp as lib
import numpy as np
import numpy.typing as npt

from caravan_engine.backends.candidates import TopLogits
from caravan_engine.domain.sampling import SamplingOptions
from caravan_engine.domain.token_sampler import UnusableLogitsError

_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])


class SamplerChain:
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


class SamplerChains:
    """One chain per distinct options, as long as somebody uses it. Usable from any thread."""

    def __init__(self, vocabulary_size: int) -> None:
        self._vocabulary_size = vocabulary_size
        self._scratch = np.zeros(vocabulary_size, _TOKEN_DATA)  # only narrow() touches it
        self._lock = threading.Lock()
        self._chains: weakref.WeakValueDictionary[tuple[float, ...], SamplerChain] = (
            weakref.WeakValueDictionary()
        )

    def get(self, options: SamplingOptions) -> SamplerChain:
        """Returns the chain for `options`."""
        key = (options.num_candidates, options.top_p, options.min_p, options.temperature)
        with self._lock:
            chain = self._chains.get(key)
            if chain is None:
                top = TopLogits(self._vocabulary_size, options.num_candidates)
                chain = self._chains[key] = SamplerChain(options, top, self._scratch)
            return chain
