"""llama.cpp through the low-level API of llama-cpp-python; nobody else imports `llama_cpp`.

One model and one context with unified KV. Knows nothing of requests, text limits or scheduling.
"""

from caravan_engine.backends.llama_cpp.backend import LlamaCppBackend
from caravan_engine.backends.llama_cpp.settings import KvType, LlamaCppSettings
from caravan_engine.backends.llama_cpp.vocabulary import LlamaCppVocabulary

__all__ = ["KvType", "LlamaCppBackend", "LlamaCppSettings", "LlamaCppVocabulary"]
