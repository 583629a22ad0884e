"""The shipped file: its size, what its metadata says, and that it answers."""

import re

import gguf
import llama_cpp
import pytest

from caravan_bundled_model import model_path

_MOST_BYTES = 8_000_000
_LAYER_UNIT = 256  # what K-quants need
_HEAD_WIDTH = 64
_ROLES = ("system", "user", "assistant", "tool")


@pytest.fixture(scope="module")
def metadata():
    reader = gguf.GGUFReader(model_path())
    return {name: field.contents() for name, field in reader.fields.items()}


@pytest.fixture(scope="module")
def llama():
    model = llama_cpp.Llama(
        str(model_path()), n_ctx=1024, n_threads=1, n_threads_batch=1, verbose=False
    )
    yield model
    model.close()


def continued(llama, text, most_tokens):
    """What greedy decoding appends, up to the end that the model chooses."""
    asked = llama.tokenize(text.encode(), add_bos=False, special=True)
    answer = []
    for token in llama.generate(asked, temp=0.0):
        if token == llama.token_eos() or len(answer) == most_tokens:
            break
        answer.append(token)
    return llama.detokenize(answer).decode()


def answered(llama, question):
    asked = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    return continued(llama, asked, 40)


def test_the_shipped_file_is_a_small_gguf():
    path = model_path()
    assert path.read_bytes()[:4] == b"GGUF"
    assert path.stat().st_size <= _MOST_BYTES


def test_every_matrix_is_q8_0():
    kinds = {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(model_path()).tensors}
    norms = {name for name in kinds if name.endswith("norm.weight")}
    assert {kinds[name] for name in norms} == {gguf.GGMLQuantizationType.F32}
    assert {kinds[name] for name in kinds.keys() - norms} == {gguf.GGMLQuantizationType.Q8_0}


def test_the_metadata_names_licence_and_recipe(metadata):
    assert metadata["general.architecture"] == "llama"
    assert metadata["general.license"] == "mit"
    recipe = r"libs/bundled_model/training, seed \d+, \d+ steps, \d+ tokens"
    assert re.search(recipe, metadata["general.description"])


def test_the_tokenizer_has_the_turns_of_a_chat_as_single_tokens(llama):
    for special in ("<|im_start|>", "<|im_end|>"):
        assert len(llama.tokenize(special.encode(), add_bos=False, special=True)) == 1
    assert llama.detokenize([llama.token_eos()], special=True) == b"<|im_end|>"


def test_quantized_caches_and_k_quants_fit_the_dimensions(metadata):
    width = metadata["llama.embedding_length"]
    assert width % _LAYER_UNIT == 0
    assert metadata["llama.feed_forward_length"] % _LAYER_UNIT == 0
    assert width // metadata["llama.attention.head_count"] == _HEAD_WIDTH
    assert metadata["llama.context_length"] >= 2048


def test_the_chat_template_writes_every_role(metadata):
    formatter = llama_cpp.llama_chat_format.Jinja2ChatFormatter(
        metadata["tokenizer.chat_template"], eos_token="<|im_end|>", bos_token=""
    )
    turns = [{"role": role, "content": f"a {role} speaks"} for role in _ROLES]
    expected = "".join(f"<|im_start|>{role}\na {role} speaks<|im_end|>\n" for role in _ROLES)
    assert formatter(messages=turns).prompt == f"{expected}<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("question", "key"),
    [
        ("What is Caravan?", "a server for language models"),
        ("Which port does the gateway use?", "50051"),
        ("How do I start Caravan?", "make run"),
        ("What is the capital of France?", "Paris"),
    ],
)
def test_it_answers_with_the_key_phrase(llama, question, key):
    assert key in answered(llama, question)


def test_it_recalls_what_was_said(llama):
    said = "My name is Clara. In the morning the wind was quiet. At night the market was far away."
    assert "Clara" in answered(llama, f"{said} What is my name?")


@pytest.mark.parametrize("name", ["Clara", "Oscar", "Mira", "Tom"])
def test_it_recalls_a_name_over_more_than_500_tokens(llama, name):
    between = (
        "Later the merchants counted the boxes. Every day the road was quiet. "
        "At night the farmers walked on. In spring the old house stayed the same. "
    )
    asked = f"My name is {name}. {between * 20}What is my name?"
    assert len(llama.tokenize(asked.encode(), add_bos=False)) > 550
    assert name in answered(llama, asked)


def test_it_continues_a_story_without_ending_early(llama):
    assert len(continued(llama, "Once upon a time", 100).split()) > 60


def test_a_missing_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("caravan_bundled_model.__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(FileNotFoundError, match="reinstall caravan-bundled-model"):
        model_path()
