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

Tensor = tuple[str, npt.NDArray[np.float32]]


def write_recurrent_gguf(path: Path, *, seed: int = 0) -> Path:
    """Writes a small random model of the Mamba architecture and returns `path`.

    What it keeps of a text has one size whatever its length, and only the newest state is there.
    """
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_name("caravan-tiny-recurrent")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(2048)
    writer.add_embedding_length(_WIDTH)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(_NUM_LAYERS)
    writer.add_ssm_conv_kernel(_CONVOLUTION)
    writer.add_ssm_inner_size(_INNER)
    writer.add_ssm_state_size(_STATE)
    writer.add_ssm_time_step_rank(_RANK)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(_VOCABULARY_SIZE)
    add_vocabulary(writer, build_vocabulary(_VOCABULARY_SIZE), CHAT_TEMPLATE)
    for name, values in _recurrent_tensors(np.random.default_rng(seed)):
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _recurrent_tensors(generator: np.random.Generator) -> Iterator[Tensor]:
    def random(*shape: int) -> npt.NDArray[np.float32]:
        return (generator.standard_normal(shape) / math.sqrt(shape[-1])).astype(np.float32)

    yield "token_embd.weight", random(_VOCABULARY_SIZE, _WIDTH) * math.sqrt(_WIDTH)
    yield "output_norm.weight", np.ones(_WIDTH, np.float32)
    yield "output.weight", _wordy(random(_VOCABULARY_SIZE, _WIDTH) * 3)
    for layer in range(_NUM_LAYERS):
        block = f"blk.{layer}."
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
