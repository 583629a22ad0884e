import random
import struct

import gguf
import pytest

from caravan_engine.backends.gguf_file import BLOCK_SIZES, read_gguf
from caravan_engine.domain.errors import ModelFileInvalidError
from caravan_testkit.tiny_model import TINY, write_tiny_gguf


def test_a_sound_file_says_what_its_model_is(tiny_gguf):
    file = read_gguf(tiny_gguf)
    shape = file.shape()
    assert file.architecture == "llama"
    assert file.num_tensors == len(gguf.GGUFReader(tiny_gguf).tensors)
    assert shape.num_layers == TINY.num_layers
    assert shape.embedding_size == TINY.width
    assert shape.ffn_size == TINY.ffn_width
    assert (shape.num_kv_heads, shape.key_size) == (TINY.num_kv_heads, TINY.head_width)
    assert shape.vocabulary_size == TINY.vocabulary_size
    assert shape.trained_context_tokens == TINY.context_length
    assert shape.weight_bytes == pytest.approx(tiny_gguf.stat().st_size, rel=0.2)


def test_block_sizes_are_those_of_the_gguf_package():
    known = {kind.value: size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: known[kind] for kind in BLOCK_SIZES} == BLOCK_SIZES


@pytest.mark.parametrize("storage", ["F32", "F16", "Q8_0"])
def test_every_way_of_storing_weights_is_read_to_its_end(tmp_path, storage):
    path = write_tiny_gguf(tmp_path / "model.gguf", storage=storage)
    read_gguf(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelFileInvalidError, match="cut off: 1 bytes are missing"):
        read_gguf(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"GG", "cut off"),
        (b"GGUF", "cut off"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(100), "version 1"),
        (b"PK\x03\x04" + bytes(100), "ZIP"),
        (b"just some text, long enough", "not a GGUF file"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "damaged"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "architecture"),
    ],
)
def test_a_file_that_is_no_model_is_refused_with_its_reason(tmp_path, content, message):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileInvalidError, match=message):
        read_gguf(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "missing.gguf", tmp_path):
        with pytest.raises(ModelFileInvalidError, match="can't be read"):
            read_gguf(path)


def test_a_file_cut_off_anywhere_is_refused(tmp_path, tiny_gguf):
    data = tiny_gguf.read_bytes()
    path = tmp_path / "cut.gguf"
    for length in random.Random(0).sample(range(len(data)), 60):
        path.write_bytes(data[:length])
        with pytest.raises(ModelFileInvalidError):
            read_gguf(path)


def test_damaged_headers_are_read_or_refused_but_nothing_else(tmp_path, tiny_gguf):
    data = tiny_gguf.read_bytes()
    generator = random.Random(1)
    path = tmp_path / "fuzzed.gguf"
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(generator.randint(1, 20)):
            damaged[generator.randrange(3000)] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            read_gguf(path).shape()
        except ModelFileInvalidError:
            refused += 1
    assert refused > 100


def test_parts_of_a_split_model_are_counted_together(tmp_path, tiny_gguf):
    writer = gguf.GGUFWriter(tmp_path / "big-00001-of-00002.gguf", "llama")
    writer.add_uint16("split.count", 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    with pytest.raises(ModelFileInvalidError):
        read_gguf(tmp_path / "big-00001-of-00002.gguf")
    (tmp_path / "big-00002-of-00002.gguf").write_bytes(bytes(5000))
    assert 5000 <= read_gguf(tmp_path / "big-00001-of-00002.gguf").weight_bytes < 5100
