"""Writes a checkpoint as the GGUF file that the distribution ships.

Usage: export.py --run DIRECTORY --out bundled.gguf
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt

from model import Shape
from tokenizer import IM_END, IM_START, PAD, SPECIALS, Tokenizer

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_MATRICES = {
    "wq": "attn_q",
    "wk": "attn_k",
    "wv": "attn_v",
    "wo": "attn_output",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
_NORMS = {"norm_attention": "attn_norm", "norm_ffn": "ffn_norm"}
_Q8 = gguf.GGMLQuantizationType.Q8_0

Arrays = dict[str, npt.NDArray[np.float32]]


def read_weights(run: Path) -> Arrays:
    """Reads the weights of a checkpoint, whose first arrays they are, in the order of names."""
    names = sorted([*_MATRICES, *_NORMS, "norm_output", "embedding"])
    with np.load(run / "checkpoint.npz") as saved:
        return {name: saved[f"arr_{rank}"] for rank, name in enumerate(names)}


def write_model(run: Path, path: Path) -> None:
    """Writes the file; `path` is replaced when it is complete."""
    tokenizer = Tokenizer.load(run / "tokenizer.json")
    facts = json.loads((run / "facts.json").read_text())
    weights = read_weights(run)
    shape = Shape(vocabulary=len(tokenizer.tokens), layers=len(weights["wq"]))
    partial = path.with_name(path.name + ".partial")
    writer = gguf.GGUFWriter(partial, "llama")
    _add_metadata(writer, shape, facts)
    _add_tokenizer(writer, tokenizer)
    _add_tensors(writer, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(path)


def _add_metadata(writer: gguf.GGUFWriter, shape: Shape, facts: dict[str, int]) -> None:
    writer.add_name("caravan-bundled")
    writer.add_author("The Caravan authors")
    writer.add_license("mit")
    writer.add_description(
        "A demonstration and test model. Trained from nothing on text that Caravan's own script "
        f"generates: libs/bundled_model/training, seed {facts['seed']}, {facts['step']} steps, "
        f"{facts['tokens']} tokens."
    )
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(shape.head)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_epsilon)
    writer.add_vocab_size(shape.vocabulary)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    control, normal = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types([control if token in SPECIALS else normal for token in tokenizer.tokens])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer.merges])
    writer.add_bos_token_id(tokenizer.id_of(IM_START))
    writer.add_eos_token_id(tokenizer.id_of(IM_END))
    writer.add_eot_token_id(tokenizer.id_of(IM_END))
    writer.add_pad_token_id(tokenizer.id_of(PAD))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _add_tensors(writer: gguf.GGUFWriter, weights: Arrays) -> None:
    _add_matrix(writer, "token_embd.weight", weights["embedding"])
    writer.add_tensor("output_norm.weight", weights["norm_output"])
    for name, label in _MATRICES.items():
        for layer, matrix in enumerate(weights[name]):
            _add_matrix(writer, f"blk.{layer}.{label}.weight", matrix.T)
    for name, label in _NORMS.items():
        for layer, scale in enumerate(weights[name]):
            writer.add_tensor(f"blk.{layer}.{label}.weight", scale)


def _add_matrix(writer: gguf.GGUFWriter, name: str, matrix: npt.NDArray[np.float32]) -> None:
    writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(matrix), _Q8), raw_dtype=_Q8)


def main() -> None:
    """Reads the arguments and writes."""
    parser = argparse.ArgumentParser(description="Write a checkpoint as GGUF.")
    parser.add_argument("--run", type=Path, required=True, help="folder that train.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    write_model(arguments.run, arguments.out)


if __name__ == "__main__":
    main()
