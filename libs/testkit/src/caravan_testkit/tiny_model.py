"""Generated GGUF models: llama architecture, random weights, a working tokenizer and chat template.

They exercise every code path of the engine and make no sense. The same arguments give the same
bytes on every machine. `python -m caravan_testkit.tiny_model --out PATH [--size tiny|bench]`.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
import numpy.typing as npt

from caravan_testkit.tiny_vocabulary import IM_END, Piece, PieceKind, build_vocabulary

Storage = Literal["F32", "F16", "Q8_0"]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML: takes the roles system, user, assistant and tool alike."""

_BOS, _EOS, _UNKNOWN = 1, 2, 0
_Q8_BLOCK = 32
_UNIFORM_INT8_STD = 127 / math.sqrt(3)
_FRAGMENT_SCALE = 0.6


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Dimensions of a generated model; `width`, `ffn_width` are multiples of 32 (for Q8_0)."""

    num_layers: int
    width: int
    num_heads: int
    num_kv_heads: int
    ffn_width: int
    vocabulary_size: int
    context_length: int

    @property
    def head_width(self) -> int:
        """Length of one head's vectors; quantized KV needs a multiple of 32."""
        return self.width // self.num_heads

    @property
    def kv_width(self) -> int:
        """Length of one layer's key (or value) for one position."""
        return self.num_kv_heads * self.head_width


TINY = ModelShape(
    num_layers=2,
    width=128,
    num_heads=2,
    num_kv_heads=1,
    ffn_width=256,
    vocabulary_size=1000,
    context_length=2048,
)
"""About 0.5 M weights: 0.6 MB as Q8_0, thousands of tokens a second on one core."""

BENCH = ModelShape(
    num_layers=24,
    width=896,
    num_heads=14,
    num_kv_heads=2,
    ffn_width=4864,
    vocabulary_size=32_000,
    context_length=32_768,
)
"""The dimensions of a 0.5B model, so that timings compare with those of real ones."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    num_rows: int
    num_columns: int
    std: float


def write_tiny_gguf(
    path: Path,
    *,
    seed: int = 0,
    shape: ModelShape = TINY,
    storage: Storage = "Q8_0",
    name: str = "caravan-tiny-random",
    chat_template: str | None = CHAT_TEMPLATE,
) -> Path:
    """Writes a small random model and returns `path`.

    Greedy output is a varied stream of words and fragments that depends on the whole prompt. Byte
    and special tokens have logit 0 where the best of the others has about 9, so a greedy run never
    ends by itself; tests that want an end (or a half UTF-8 character) add a logit bias.

    Args:
        path: replaced atomically when the file is complete.
        seed: of the weights; the vocabulary is always the same.
        shape: dimensions.
        storage: of the matrices. The same seed has the same weights, but for rounding, in each.
        name: `general.name`.
        chat_template: None writes a model without one.
    """
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(partial, "llama")
    pieces = build_vocabulary(shape.vocabulary_size)
    _add_metadata(writer, shape, storage, name)
    add_vocabulary(writer, pieces, chat_template)
    tensors = list(_tensors(shape))
    _declare_tensors(writer, tensors, shape, storage)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    _write_tensors(writer, tensors, shape, storage, _Randomness(seed), _output_row_scales(pieces))
    writer.close()
    partial.replace(path)
    return path


def write_bench_gguf(path: Path, *, seed: int = 0) -> Path:
    """Writes a 0.5B-like random Q8_0 model (440 MB) for measuring; see `write_tiny_gguf`."""
    return write_tiny_gguf(path, seed=seed, shape=BENCH, name="caravan-bench-random")


def _add_metadata(writer: gguf.GGUFWriter, shape: ModelShape, storage: Storage, name: str) -> None:
    writer.add_name(name)
    writer.add_description("Random weights for tests and measurements; its text has no meaning.")
    writer.add_author("The Caravan authors")
    writer.add_license("mit")
    writer.add_file_type(
        {
            "F32": gguf.LlamaFileType.ALL_F32,
            "F16": gguf.LlamaFileType.MOSTLY_F16,
            "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
        }[storage]
    )
    writer.add_context_length(shape.context_length)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(shape.ffn_width)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_rope_dimension_count(shape.head_width)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocabulary_size)


def add_vocabulary(writer: gguf.GGUFWriter, pieces: list[Piece], chat_template: str | None) -> None:
    """Writes the tokenizer, and the chat template if there is one."""
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece.text for piece in pieces])
    writer.add_token_scores([piece.score for piece in pieces])
    writer.add_token_types([int(piece.kind) for piece in pieces])
    writer.add_unk_token_id(_UNKNOWN)
    writer.add_bos_token_id(_BOS)
    writer.add_eos_token_id(_EOS)
    writer.add_eot_token_id(next(i for i, piece in enumerate(pieces) if piece.text == IM_END))
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(True)
    if chat_template is not None:
        writer.add_chat_template(chat_template)


def _tensors(shape: ModelShape) -> Iterator[_Tensor]:
    """Yields the matrices in file order with spreads that keep activations and logits lively."""
    width, ffn = shape.width, shape.ffn_width
    unit = 1 / math.sqrt(width)
    yield _Tensor("token_embd.weight", shape.vocabulary_size, width, 1.0)
    yield _Tensor("output.weight", shape.vocabulary_size, width, 3 * unit)
    for layer in range(shape.num_layers):
        block = f"blk.{layer}."
        # Sharp attention (scores of spread 4) makes the text depend on far positions.
        yield _Tensor(block + "attn_q.weight", width, width, 2 * unit)
        yield _Tensor(block + "attn_k.weight", shape.kv_width, width, 2 * unit)
        yield _Tensor(block + "attn_v.weight", shape.kv_width, width, unit)
        yield _Tensor(block + "attn_output.weight", width, width, 2 * unit)
        yield _Tensor(block + "ffn_gate.weight", ffn, width, unit)
        yield _Tensor(block + "ffn_up.weight", ffn, width, unit)
        yield _Tensor(block + "ffn_down.weight", width, ffn, 1 / math.sqrt(ffn))


def _norm_names(shape: ModelShape) -> list[str]:
    names = ["output_norm.weight"]
    for layer in range(shape.num_layers):
        names += [f"blk.{layer}.attn_norm.weight", f"blk.{layer}.ffn_norm.weight"]
    return names


def _declare_tensors(
    writer: gguf.GGUFWriter, tensors: list[_Tensor], shape: ModelShape, storage: Storage
) -> None:
    for tensor in tensors:
        num_bytes = tensor.num_rows * _row_bytes(tensor.num_columns, storage)
        dimensions = (tensor.num_rows, tensor.num_columns)
        dtype = np.dtype(np.float32 if storage == "F32" else np.float16)
        if storage == "Q8_0":  # the writer takes quantized shapes in bytes
            dtype = np.dtype(np.uint8)
            dimensions = (tensor.num_rows, _row_bytes(tensor.num_columns, storage))
        raw = gguf.GGMLQuantizationType[storage]
        writer.add_tensor_info(tensor.name, dimensions, dtype, num_bytes, raw_dtype=raw)
    for name in _norm_names(shape):
        writer.add_tensor_info(name, (shape.width,), np.dtype(np.float32), shape.width * 4)


def _write_tensors(
    writer: gguf.GGUFWriter,
    tensors: list[_Tensor],
    shape: ModelShape,
    storage: Storage,
    randomness: "_Randomness",
    output_row_scales: npt.NDArray[np.float64],
) -> None:
    """Writes one matrix after the other, so that only one is in memory at a time."""
    for tensor in tensors:
        scales = np.full(tensor.num_rows, tensor.std / _UNIFORM_INT8_STD)
        if tensor.name == "output.weight":
            scales *= output_row_scales
        values = randomness.int8_matrix(tensor.num_rows, tensor.num_columns)
        writer.write_tensor_data(_encoded(values, scales.astype(np.float16), storage))
    for _ in _norm_names(shape):
        writer.write_tensor_data(np.ones(shape.width, dtype=np.float32))


def _output_row_scales(pieces: list[Piece]) -> npt.NDArray[np.float64]:
    """Whole words win most often, fragments sometimes, bytes and specials (all zeros) never."""

    def scale(piece: Piece) -> float:
        if piece.kind is not PieceKind.ORDINARY:
            return 0.0
        return 1.0 if piece.is_word_start else _FRAGMENT_SCALE

    return np.array([scale(piece) for piece in pieces])


def _row_bytes(num_columns: int, storage: Storage) -> int:
    if storage == "Q8_0":
        return num_columns // _Q8_BLOCK * (_Q8_BLOCK + 2)
    return num_columns * (4 if storage == "F32" else 2)


def _encoded(
    values: npt.NDArray[np.int8], row_scales: npt.NDArray[np.float16], storage: Storage
) -> npt.NDArray[np.generic]:
    if storage == "Q8_0":
        return _encoded_q8(values, row_scales)
    weights = values.astype(np.float32) * row_scales[:, None].astype(np.float32)
    return weights if storage == "F32" else weights.astype(np.float16)


def _encoded_q8(
    values: npt.NDArray[np.int8], row_scales: npt.NDArray[np.float16]
) -> npt.NDArray[np.uint8]:
    """Lays blocks out as ggml does: a half-precision scale, then 32 signed bytes."""
    num_rows, num_columns = values.shape
    num_blocks = num_columns // _Q8_BLOCK
    blocks = np.empty((num_rows, num_blocks, _Q8_BLOCK + 2), dtype=np.uint8)
    blocks[:, :, :2] = row_scales.view(np.uint8).reshape(num_rows, 1, 2)
    blocks[:, :, 2:] = values.view(np.uint8).reshape(num_rows, num_blocks, _Q8_BLOCK)
    return blocks.reshape(num_rows, -1)


class _Randomness:
    """Uniform signed bytes from raw PCG64 bits.

    numpy's distributions may change between its releases, its bit generators may not; and integers
    need no floating point library, whose last bits differ between machines.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def int8_matrix(self, num_rows: int, num_columns: int) -> npt.NDArray[np.int8]:
        num_bytes = num_rows * num_columns
        words = self._bits.random_raw(-(-num_bytes // 8)).astype("<u8", copy=False)
        values: npt.NDArray[np.int8] = words.view(np.int8)[:num_bytes]
        return np.maximum(values, -127, out=values).reshape(num_rows, num_columns)


def _main() -> None:
    parser = argparse.ArgumentParser(description="Write a GGUF model with random weights.")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--size", choices=("tiny", "bench"), default="tiny")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write = write_tiny_gguf if arguments.size == "tiny" else write_bench_gguf
    print(write(arguments.out, seed=arguments.seed))


if __name__ == "__main__":
    _main()
