"""Reads what a loaded model says of itself."""

import ctypes
from collections.abc import Callable

import llama_cpp.llama_cpp as lib

from caravan_engine.backends.llama_cpp.vocabulary import LlamaCppVocabulary
from caravan_engine.domain.model_facts import ModelFacts, Pooling

_POOLINGS = {
    "0": Pooling.NONE,
    "1": Pooling.MEAN,
    "2": Pooling.CLS,
    "3": Pooling.LAST,
    "4": Pooling.RANK,
    None: Pooling.NONE,
}


def read_facts(model: int, context: int, vocabulary: LlamaCppVocabulary) -> ModelFacts:
    """Reads a model's header and what its context was made of."""
    metadata = read_metadata(model)
    architecture = metadata.get("general.architecture", "unknown")
    return ModelFacts(
        architecture=architecture,
        description=_text(lib.llama_model_desc, model),
        size_bytes=lib.llama_model_size(model),
        num_layers=lib.llama_model_n_layer(model),
        embedding_size=lib.llama_model_n_embd(model),
        trained_context_tokens=lib.llama_model_n_ctx_train(model),
        num_cells=lib.llama_n_ctx(context),
        chat_template=_chat_template(model),
        bos=vocabulary.bos,
        eos=vocabulary.eos,
        has_encoder=lib.llama_model_has_encoder(model),
        is_recurrent=lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model),
        pooling=_POOLINGS.get(metadata.get(f"{architecture}.pooling_type"), Pooling.UNSPECIFIED),
        metadata=metadata,
    )


def can_cut(model: int) -> bool:
    """Returns whether what a sequence has in memory can be divided at a position.

    Not the state of recurrent layers; and of a sliding window older positions are gone.
    """
    is_recurrent = lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model)
    return not is_recurrent and lib.llama_model_n_swa(model) == 0


def _text(read: Callable[..., int], *arguments: object) -> str:
    """Calls a function that fills a buffer and returns how long the text is."""
    capacity = 256
    while True:
        buffer = ctypes.create_string_buffer(capacity)
        length = read(*arguments, buffer, capacity)
        if length < capacity:
            return buffer.value.decode(errors="replace")
        capacity = length + 1


def read_metadata(model: int) -> dict[str, str]:
    """Reads the scalars of a model's header."""
    return {
        _text(lib.llama_model_meta_key_by_index, model, index): _text(
            lib.llama_model_meta_val_str_by_index, model, index
        )
        for index in range(lib.llama_model_meta_count(model))
    }


def _chat_template(model: int) -> str | None:
    template: bytes | None = lib.llama_model_chat_template(model, None)
    return template.decode(errors="replace") if template else None
