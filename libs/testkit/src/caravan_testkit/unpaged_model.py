"""Generated GGUF models whose memory can't be divided at a position; see `tiny_model`."""

import math
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from caravan_testkit.tiny_model import CHAT_TEMPLATE, add_vocabulary
from caravan_testkit.tiny_vocabulary import PieceKind, build_vocabulary

_VOCABULARY_SIZE, _WIDTH, _NUM_LAYERS = 1000, 64, 2
_INNER, _STATE, _CONVOLUTION, _RANK = 128, 16, 4, 4
_NUM_WINDOW_LAYERS, _NUM_HEADS, _HEAD_WIDTH, _FFN_WIDTH, _WINDOW = 6, 2, 32, 128, 32

Tensor = tuple[str, npt.NDArray[np.float32]]


def write_recurrent_gguf(path: Path, *, seed: int = 0) -> Path:
    """Writes a small random model of the Mamba architecture and returns `path`.

    What it keeps of a text has one size whatever its length, and only the newest state is there.
    """
    writer = _begin(path, "mamba")
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(_NUM_LAYERS)
    writer.add_ssm_conv_kernel(_CONVOLUTION)
    writer.add_ssm_inner_size(_INNER)
    writer.add_ssm_state_size(_STATE)
    writer.add_ssm_time_step_rank(_RANK)
    return _write(writer, path, _recurrent_tensors(_Randomness(seed)))


def write_hybrid_gguf(path: Path, *, seed: int = 0) -> Path:
    """Writes a small random model of the Jamba architecture and returns `path`.

    One layer remembers like Mamba's, the other one has keys and values of every position.
    """
    writer = _begin(path, "jamba")
    writer.add_feed_forward_length(_FFN_WIDTH)
    writer.add_head_count(_NUM_HEADS)
    writer.add_head_count_kv([0, 1])
    writer.add_block_count(2)
    writer.add_ssm_conv_kernel(_CONVOLUTION)
    writer.add_ssm_inner_size(_INNER)
    writer.add_ssm_state_size(_STATE)
    writer.add_ssm_time_step_rank(_RANK)
    return _write(writer, path, _hybrid_tensors(_Randomness(seed)))


def write_window_gguf(path: Path, *, seed: int = 0) -> Path:
    """Writes a small random model of the Gemma 3 architecture and returns `path`.

    Most of its layers look back at a window of 32 positions only.
    """
    writer = _begin(path, "gemma3")
    writer.add_feed_forward_length(_FFN_WIDTH)
    writer.add_head_count(_NUM_HEADS)
    writer.add_head_count_kv(1)
    writer.add_key_length(_HEAD_WIDTH)
    writer.add_value_length(_HEAD_WIDTH)
    writer.add_sliding_window(_WINDOW)
    writer.add_rope_freq_base(10_000.0)
    writer.add_block_count(_NUM_WINDOW_LAYERS)
    return _write(writer, path, _window_tensors(_Randomness(seed)))


def _begin(path: Path, architecture: str) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(f"caravan-tiny-{architecture}")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(2048)
    writer.add_embedding_length(_WIDTH)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(_VOCABULARY_SIZE)
    add_vocabulary(writer, build_vocabulary(_VOCABULARY_SIZE), CHAT_TEMPLATE)
    return writer


def _write(writer: gguf.GGUFWriter, path: Path, tensors: Iterator[Tensor]) -> Path:
    for name, values in tensors:
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class _Randomness:
    """Matrices that keep the size of what they are applied to."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def __call__(self, *shape: int) -> npt.NDArray[np.float32]:
        values = self._generator.standard_normal(shape) / math.sqrt(shape[-1])
        return values.astype(np.float32)

    def ends(self) -> Iterator[Tensor]:
        """Yields what each model begins and ends with."""
        yield "token_embd.weight", self(_VOCABULARY_SIZE, _WIDTH) * math.sqrt(_WIDTH)
        yield "output_norm.weight", np.ones(_WIDTH, np.float32)
        yield "output.weight", _wordy(self(_VOCABULARY_SIZE, _WIDTH) * 3)


def _window_tensors(random: _Randomness) -> Iterator[Tensor]:
    yield from random.ends()
    for layer in range(_NUM_WINDOW_LAYERS):
        block = f"blk.{layer}."
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            yield f"{block}{name}.weight", np.ones(_WIDTH, np.float32)
        for name in ("attn_q_norm", "attn_k_norm"):
            yield f"{block}{name}.weight", np.ones(_HEAD_WIDTH, np.float32)
        yield block + "attn_q.weight", random(_NUM_HEADS * _HEAD_WIDTH, _WIDTH)
        yield block + "attn_k.weight", random(_HEAD_WIDTH, _WIDTH)
        yield block + "attn_v.weight", random(_HEAD_WIDTH, _WIDTH)
        yield block + "attn_output.weight", random(_WIDTH, _NUM_HEADS * _HEAD_WIDTH)
        yield from _feed_forward(random, block)


def _recurrent_tensors(random: _Randomness) -> Iterator[Tensor]:
    yield from random.ends()
    for layer in range(_NUM_LAYERS):
        yield from _recurrent_layer(random, f"blk.{layer}.")


def _hybrid_tensors(random: _Randomness) -> Iterator[Tensor]:
    yield from random.ends()
    yield from _recurrent_layer(random, "blk.0.")
    for name, size in (("ssm_dt_norm", _RANK), ("ssm_b_norm", _STATE), ("ssm_c_norm", _STATE)):
        yield f"blk.0.{name}.weight", np.ones(size, np.float32)
    yield "blk.1.attn_norm.weight", np.ones(_WIDTH, np.float32)
    yield "blk.1.attn_q.weight", random(_WIDTH, _WIDTH)
    yield "blk.1.attn_k.weight", random(_WIDTH // _NUM_HEADS, _WIDTH)
    yield "blk.1.attn_v.weight", random(_WIDTH // _NUM_HEADS, _WIDTH)
    yield "blk.1.attn_output.weight", random(_WIDTH, _WIDTH)
    for block in ("blk.0.", "blk.1."):
        yield block + "ffn_norm.weight", np.ones(_WIDTH, np.float32)
        yield from _feed_forward(random, block)


def _feed_forward(random: _Randomness, block: str) -> Iterator[Tensor]:
    yield block + "ffn_gate.weight", random(_FFN_WIDTH, _WIDTH)
    yield block + "ffn_up.weight", random(_FFN_WIDTH, _WIDTH)
    yield block + "ffn_down.weight", random(_WIDTH, _FFN_WIDTH)


def _recurrent_layer(random: _Randomness, block: str) -> Iterator[Tensor]:
    yield block + "attn_norm.weight", np.ones(_WIDTH, np.float32)
    yield block + "ssm_in.weight", random(2 * _INNER, _WIDTH)
    yield block + "ssm_conv1d.weight", random(_INNER, _CONVOLUTION)
    yield block + "ssm_conv1d.bias", np.zeros(_INNER, np.float32)
    yield block + "ssm_x.weight", random(_RANK + 2 * _STATE, _INNER)
    yield block + "ssm_dt.weight", random(_INNER, _RANK)
    yield block + "ssm_dt.bias", np.full(_INNER, -2.0, np.float32)
    decay = np.arange(1, _STATE + 1, dtype=np.float32) / 8  # slow, so that it remembers
    yield block + "ssm_a", np.tile(-decay, (_INNER, 1))
    yield block + "ssm_d", np.ones(_INNER, np.float32)
    yield block + "ssm_out.weight", random(_WIDTH, _INNER) * 2


def _wordy(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Makes control tokens and bytes the least probable."""
    pieces = build_vocabulary(_VOCABULARY_SIZE)
    is_ordinary = np.array([piece.kind is PieceKind.ORDINARY for piece in pieces])
    return rows * is_ordinary[:, None].astype(np.float32)
