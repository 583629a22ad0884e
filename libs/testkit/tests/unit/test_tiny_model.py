import hashlib
import string
from pathlib import Path

import gguf
import pytest

from caravan_testkit.tiny_model import TINY, Storage, write_tiny_gguf
from caravan_testkit.tiny_vocabulary import PieceKind, build_vocabulary


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _field(path: Path, key: str) -> object:
    field = gguf.GGUFReader(path).get_field(key)
    return None if field is None else field.contents()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    first = write_tiny_gguf(tmp_path / "first.gguf", seed=7)
    again = write_tiny_gguf(tmp_path / "again.gguf", seed=7)
    other = write_tiny_gguf(tmp_path / "other.gguf", seed=8)
    assert _digest(first) == _digest(again) != _digest(other)


def test_no_partial_file_stays_behind(tmp_path):
    write_tiny_gguf(tmp_path / "new" / "tiny.gguf")
    assert [entry.name for entry in (tmp_path / "new").iterdir()] == ["tiny.gguf"]


def test_a_model_can_be_written_without_a_chat_template(tmp_path):
    path = write_tiny_gguf(tmp_path / "plain.gguf", chat_template=None)
    assert _field(path, "tokenizer.chat_template") is None
    assert _field(path, "general.license") == "mit"


def test_storages_hold_the_same_weights(tmp_path):
    sizes = {
        storage: write_tiny_gguf(tmp_path / storage, storage=storage)
        for storage in ("F32", "F16", "Q8_0")
    }
    exact, half = (
        gguf.GGUFReader(sizes[name]).tensors[0].data.astype(float) for name in ("F32", "F16")
    )
    quantized = gguf.GGUFReader(sizes["Q8_0"]).tensors[0]
    restored = gguf.quants.dequantize(quantized.data, quantized.tensor_type)
    assert (restored == exact).all()
    assert abs(half - exact).max() < 1e-3


def test_vocabulary_has_the_wanted_size_and_no_doubles():
    for size in (400, 1_000, 32_000):
        texts = [piece.text for piece in build_vocabulary(size)]
        assert len(texts) == len(set(texts)) == size


@pytest.mark.parametrize("size", [300, 10_000_000])
def test_vocabulary_refuses_a_size_that_it_cannot_give(size):
    with pytest.raises(ValueError, match="a vocabulary"):
        build_vocabulary(size)


def test_every_learned_piece_can_be_reached_by_merging_two_others():
    texts = {p.text for p in build_vocabulary(1_000) if p.kind is PieceKind.ORDINARY}
    for text in texts:
        splits = ((text[:i], text[i:]) for i in range(1, len(text)))
        assert len(text) == 1 or any(left in texts and right in texts for left, right in splits)


@pytest.fixture(scope="module", params=["F32", "F16", "Q8_0"])
def llama(request, tmp_path_factory):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    storage: Storage = request.param
    path = write_tiny_gguf(tmp_path_factory.mktemp("model") / f"{storage}.gguf", storage=storage)
    model = llama_cpp.Llama(str(path), n_ctx=512, n_threads=1, verbose=False)
    yield model
    model.close()


def test_english_becomes_few_tokens_and_comes_back(llama):
    text = "Once upon a time the caravan was there."
    tokens = llama.tokenize(text.encode(), add_bos=True)
    assert len(tokens) <= len(text.split()) + 3
    assert llama.detokenize(tokens).decode().strip() == text


def test_any_bytes_survive_tokenizing(llama):
    text = "naïve 東京 🐫 \x00\t\n"
    assert llama.detokenize(llama.tokenize(text.encode(), add_bos=False)).decode().strip(
        " "
    ) == text.strip(" ")


def test_chat_markers_are_single_tokens_only_when_specials_are_parsed(llama):
    marked = b"<|im_start|>user"
    assert len(llama.tokenize(marked, add_bos=False, special=True)) < 4
    assert len(llama.tokenize(marked, add_bos=False, special=False)) > 4


@pytest.mark.parametrize("prompt", ["Once upon a time", "What is Caravan?", "a b c", "{}"])
def test_greedy_output_is_varied_printable_and_of_full_length(llama, prompt):
    answer = llama(prompt, max_tokens=64, temperature=0)
    text = answer["choices"][0]["text"]
    assert answer["usage"]["completion_tokens"] == 64
    assert set(text) <= set(string.printable)
    assert len(set(text.split())) > 16


def test_greedy_output_depends_on_the_beginning_of_a_long_prompt(llama):
    def continued(start: str) -> str:
        prompt = start + " the people of the town walked until the morning" * 6
        return llama(prompt, max_tokens=32, temperature=0)["choices"][0]["text"]

    assert continued("Here") != continued("There")


def test_an_end_token_can_be_forced(llama):
    answer = llama("Once", max_tokens=8, temperature=0, logit_bias={llama.token_eos(): 100.0})
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_shape_suits_quantized_kv_and_unequal_heads():
    assert TINY.head_width % 32 == 0
    assert TINY.num_kv_heads < TINY.num_heads
