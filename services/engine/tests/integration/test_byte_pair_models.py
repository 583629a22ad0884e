"""Models with a byte-pair tokenizer, whose splitter overflows the stack on long words."""

import gguf
import grpc
import pytest

from caravan_engine.backends.llama_cpp import LlamaCppBackend, LlamaCppSettings
from caravan_engine.prompts.cutting import cut
from caravan_rpckit.details import error_details

SPLITTERS = ("tekken", "qwen2", "deepseek-llm", "gpt-4o")
TEXT = (
    "Once upon a time there was a caravan, it's said; 12345 camels!\n\n  And they went:\n"
    "\tfor i in range(10):\n        print(i)  # done\n"
    "Ärger über Öl — 你好,世界。\U0001f600\U0001f600 "
)
WORDS = ["the", "caravan", "and", "time", "upon", "print", "there"]


def byte_letters():
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    stand_ins = {byte: chr(byte) for byte in printable}
    return stand_ins | {byte: chr(256 + index) for index, byte in enumerate(others)}


def write_byte_pair_model(source, path, splitter):
    """Copies a model and gives it a small byte-pair vocabulary."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(path, "llama")
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "tokenizer.", "general.architecture")):
            writer.add_key_value(key, field.contents(), field.types[0])
    tokens, merges = list(byte_letters().values()), []
    for word in WORDS:
        begin = "\u0120"
        for letter in word:
            merges.append(f"{begin} {letter}")
            begin += letter
            tokens.append(begin)
    tokens = list(dict.fromkeys(tokens))
    tokens += [f"<unused{index}>" for index in range(1000 - len(tokens) - 1)] + ["<|end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitter)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 999 + [3])
    writer.add_token_merges(list(dict.fromkeys(merges)))
    writer.add_eos_token_id(999)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("splitter", SPLITTERS)
def test_cut_text_has_the_tokens_of_the_whole(tmp_path, tiny_gguf, splitter):
    path = write_byte_pair_model(tiny_gguf, tmp_path / "bpe.gguf", splitter)
    backend = LlamaCppBackend(
        LlamaCppSettings(model_path=path, num_cells=256, num_seats=1, batch_tokens=32)
    )
    tokenize = backend.vocabulary.tokenize
    text = TEXT * 40
    whole = tokenize(text, add_special=False, parse_special=False)
    for limit in (60, 100, 300, 1000):
        pieces = list(cut(text, limit))
        assert len(pieces) > 1
        tokens = [
            token
            for piece in pieces
            for token in tokenize(piece, add_special=False, parse_special=False)
        ]
        assert tokens == whole
    backend.close()


async def test_a_word_of_megabytes_is_refused_and_harms_nobody(start_host, view_of, tiny_gguf):
    host = start_host()
    write_byte_pair_model(tiny_gguf, host.models / "tekken.gguf", "tekken")
    view = await view_of(host)
    await view.load("tekken")
    before = await view.endpoint("tekken")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await view.run(worker="tekken", model="tekken", text="a" * 4_000_000)

    assert error_details(refused.value).reason == "CONTEXT_LENGTH_EXCEEDED"
    assert (await view.endpoint("tekken")).worker_id == before.worker_id
