"""Reads what a GGUF file says of its model, without llama.cpp and without trusting the file.

llama.cpp aborts its process on some damaged files, and the `gguf` package reads lengths as they
are given; here every length is checked against what is left of the file before it is used.
"""

import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from caravan_engine.domain.errors import ModelFileInvalidError
from caravan_engine.domain.memory_plan import ModelShape

Value = int | float | bool | str

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_DIMENSIONS = 4
_DEFAULT_ALIGNMENT = 32
_MAX_LISTED = 1024
_MAX_HEADER_ITEMS = 2**22  # keeps a damaged file from being read for minutes
_FOREIGN = {
    b"PK\x03\x04": "a ZIP archive (PyTorch?)",
    b"ggml": "an old GGML file",
    b"lmgg": "an old GGML file",
    b"\x89HDF": "an HDF5 file",
}

_STRING, _ARRAY = 8, 9
_SCALARS = {  # GGUF value type -> struct layout
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip

BLOCK_SIZES: Mapping[int, tuple[int, int]] = {  # tensor type -> (elements, bytes) of a block
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110),
    22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8),
    29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The header of a model file; `weight_bytes` counts all parts of a split model."""

    metadata: Mapping[str, Value]  # scalars and strings
    lengths: Mapping[str, int]  # of arrays
    numbers: Mapping[str, tuple[int, ...]]  # short arrays of integers, such as heads by layer
    num_tensors: int
    weight_bytes: int

    @property
    def architecture(self) -> str:
        """Which of llama.cpp's architectures it is."""
        return str(self.metadata["general.architecture"])

    def shape(self) -> ModelShape:
        """Returns what the memory plan needs to know.

        Raises:
            ModelFileInvalidError: if the header doesn't say it.
        """
        num_heads = self._largest("attention.head_count", 1)
        embedding = self._largest("embedding_length")
        head = embedding // max(1, num_heads)
        experts = self._largest("expert_used_count", 0)
        return ModelShape(
            weight_bytes=self.weight_bytes,
            num_layers=self._largest("block_count"),
            embedding_size=embedding,
            ffn_size=max(
                self._largest("feed_forward_length", 0),
                experts * self._largest("expert_feed_forward_length", 0),
            ),
            num_kv_heads=self._largest("attention.head_count_kv", num_heads),
            key_size=self._largest("attention.key_length", head),
            value_size=self._largest("attention.value_length", head),
            vocabulary_size=self.lengths.get("tokenizer.ggml.tokens", 0),
            trained_context_tokens=self._largest("context_length", 0),
        )

    def _largest(self, name: str, default: int | None = None) -> int:
        key = f"{self.architecture}.{name}"
        value = self.metadata.get(key, default)
        if key in self.numbers:
            value = max(self.numbers[key], default=0)
        if not isinstance(value, int) or value < 0:
            raise ModelFileInvalidError(f"the model file has no usable {key}")
        return value


def read_gguf(path: Path) -> GgufFile:
    """Reads and checks a file's header and that all its tensors are there.

    Raises:
        ModelFileInvalidError: for a file that is missing, empty, cut off, damaged or foreign.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size == 0:
                raise ModelFileInvalidError("the model file is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read(_Cursor(data, size), path)
    except OSError as error:
        raise ModelFileInvalidError(f"the model file can't be read: {error.strerror}") from error


def _read(cursor: "_Cursor", path: Path) -> GgufFile:
    _check_magic(cursor)
    num_tensors, num_values = cursor.count(), cursor.count()
    metadata: dict[str, Value] = {}
    lengths: dict[str, int] = {}
    numbers: dict[str, tuple[int, ...]] = {}
    for _ in range(num_values):
        key = cursor.string()
        kind = cursor.number("<I")
        if kind == _ARRAY:
            lengths[key], numbers[key] = _array(cursor)
        else:
            metadata[key] = _value(cursor, kind)
    if "general.architecture" not in metadata:
        raise ModelFileInvalidError("the model file doesn't name its architecture")
    end = max((_tensor_end(cursor) for _ in range(num_tensors)), default=0)
    _check_data(cursor, end, metadata.get("general.alignment", _DEFAULT_ALIGNMENT))
    weight_bytes = cursor.size - cursor.at + _other_parts_bytes(path, metadata)
    return GgufFile(metadata, lengths, numbers, num_tensors, weight_bytes)


def _check_magic(cursor: "_Cursor") -> None:
    magic = cursor.take(4)
    if magic != _MAGIC:
        what = _FOREIGN.get(magic, "not a GGUF file")
        raise ModelFileInvalidError(f"the model file is {what}")
    version = cursor.number("<I")
    if version not in _VERSIONS:
        raise ModelFileInvalidError(f"GGUF version {version} of the model file is not supported")


def _value(cursor: "_Cursor", kind: int) -> Value:
    if kind == _STRING:
        return cursor.string()
    if kind not in _SCALARS:
        raise ModelFileInvalidError("the model file has a value of unknown type")
    value: Value = struct.unpack(_SCALARS[kind], cursor.take(struct.calcsize(_SCALARS[kind])))[0]
    return value


def _array(cursor: "_Cursor") -> tuple[int, tuple[int, ...]]:
    """Returns an array's length, and its elements if they are few integers."""
    kind, length = cursor.number("<I"), cursor.count()
    if kind == _STRING:
        for _ in range(length):
            cursor.skip(cursor.count())
        return length, ()
    if kind not in _SCALARS:
        raise ModelFileInvalidError("the model file has an array of unknown type")
    num_bytes = length * struct.calcsize(_SCALARS[kind])
    if length > _MAX_LISTED or _SCALARS[kind] in ("<f", "<d"):
        cursor.skip(num_bytes)
        return length, ()
    data = cursor.take(num_bytes)
    return length, tuple(int(each[0]) for each in struct.iter_unpack(_SCALARS[kind], data))


def _tensor_end(cursor: "_Cursor") -> int:
    """Reads one tensor's description; returns where it ends in the data."""
    cursor.string()
    num_dimensions = cursor.number("<I")
    if num_dimensions > _MAX_DIMENSIONS:
        raise ModelFileInvalidError("the model file has a tensor of too many dimensions")
    num_elements = prod(cursor.number("<Q") for _ in range(num_dimensions))
    kind, offset = cursor.number("<I"), cursor.number("<Q")
    elements, num_bytes = BLOCK_SIZES.get(kind, (1, 0))  # of an unknown type: only its beginning
    return offset + num_elements // elements * num_bytes


def _check_data(cursor: "_Cursor", end: int, alignment: Value) -> None:
    if not isinstance(alignment, int) or alignment < 1:
        raise ModelFileInvalidError("the model file has no usable alignment")
    data_start = -(-cursor.at // alignment) * alignment
    missing = data_start + end - cursor.size
    if end and missing > 0:
        raise ModelFileInvalidError(f"the model file is cut off: {missing} bytes are missing")


def _other_parts_bytes(path: Path, metadata: Mapping[str, Value]) -> int:
    count = metadata.get("split.count", 1)
    match = re.fullmatch(r"(.+)-00001-of-(\d{5})", path.stem)
    if not match or not isinstance(count, int) or count < 2:
        return 0
    names = (f"{match[1]}-{part:05}-of-{match[2]}{path.suffix}" for part in range(2, count + 1))
    return sum(path.with_name(name).stat().st_size for name in names)


class _Cursor:
    """Reads forward and never past the end."""

    def __init__(self, data: mmap.mmap, size: int) -> None:
        self._data = data
        self.size = size
        self.at = 0

    def take(self, num_bytes: int) -> bytes:
        self.skip(num_bytes)
        return self._data[self.at - num_bytes : self.at]

    def skip(self, num_bytes: int) -> None:
        if num_bytes > self.size - self.at:
            raise ModelFileInvalidError("the model file's header is cut off or damaged")
        self.at += num_bytes

    def number(self, layout: str) -> int:
        value: int = struct.unpack(layout, self.take(struct.calcsize(layout)))[0]
        return value

    def count(self) -> int:
        """Reads how many things follow; each takes a byte at least."""
        count = self.number("<Q")
        if count > min(self.size - self.at, _MAX_HEADER_ITEMS):
            raise ModelFileInvalidError("the model file's header is cut off or damaged")
        return count

    def string(self) -> str:
        return self.take(self.count()).decode(errors="replace")
