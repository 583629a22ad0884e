"""A model's tokens, as llama.cpp knows them."""

import ctypes

import llama_cpp.llama_cpp as lib


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


def _token_or_none(token: int) -> int | None:
    return None if token == lib.LLAMA_TOKEN_NULL else token
