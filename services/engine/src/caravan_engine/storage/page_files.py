"""The format of a page's file: one header, then the page's memory, compressed or not.

    magic 8 | version 2 | codec 1 | flags 1 | header bytes 4 | page size 4 | root 16 | parent 16 |
    key 16 | start 4 | token count 4 | lengths of the texts 2 2 1 1 | memory bytes 8 |
    stored bytes 8 | checksum of the memory 8 | checksum of what is stored 8
    model digest | layout | key type | value type | tokens, 4 bytes each
    checksum of all the header before it 8

Little-endian. Nothing is believed before the header's checksum was right, and no length before it
was compared with the file's. Knows bytes only; files are `page_folder`'s.
"""

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum

import zstandard

from caravan_engine.domain.paging.page_image import KEY_BYTES, PageImage, PageInfo
from caravan_engine.storage.checksums import checksum
from caravan_engine.storage.page_losses import LossCause, PageFileError

MAX_HEADER_BYTES = 256 * 1024
HEADER_GUESS_BYTES = 4096
"""Holds the header of a page of 256 tokens."""

_MAGIC = b"CARAVPAG"
_VERSION = 1
_FIXED = struct.Struct(f"<8sHBBII{KEY_BYTES}s{KEY_BYTES}s{KEY_BYTES}sIIHHBBQQQQ")
_PROLOGUE = struct.Struct("<8sHBBI")
_CHECKSUM = struct.Struct("<Q")
_PROTECTED = 1
_ZSTD_LEVEL = 1


class Codec(IntEnum):
    """How what is stored is compressed; the number is in the file."""

    NONE = 0
    ZSTD = 1


@dataclass(frozen=True, slots=True)
class PageIdentity:
    """What a page must have in common with the context that it goes into."""

    model_digest: str
    layout: bytes  # opaque: whatever of the backend decides what the bytes mean
    key_type: str
    value_type: str
    page_size: int

    @property
    def folder_name(self) -> str:
        """Names model and layout: `<model>-<layout>` in hex."""
        return f"{self.model_prefix}{_short_hash(self._layout_text)}"

    @property
    def model_prefix(self) -> str:
        """How the names of all folders of this model begin."""
        return f"{_short_hash(self.model_digest.encode())}-"

    @property
    def _layout_text(self) -> bytes:
        return repr((self.layout, self.key_type, self.value_type, self.page_size)).encode()


@dataclass(frozen=True, slots=True)
class PageHeader:
    """What a file says of its page."""

    info: PageInfo
    is_protected: bool
    codec: Codec
    header_bytes: int
    memory_bytes: int
    stored_bytes: int
    memory_checksum: int
    stored_checksum: int

    @property
    def file_bytes(self) -> int:
        """The size that the file must have."""
        return self.header_bytes + self.stored_bytes


class PagePacker:
    """Makes files of pages. One thread at a time: it keeps a compressor."""

    def __init__(self, identity: PageIdentity, codec: Codec) -> None:
        self._identity = identity
        self._codec = codec
        self._compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)

    def pack(self, image: PageImage, *, protected: bool) -> tuple[bytes, memoryview]:
        """Returns the header and what is stored.

        Raises:
            PageFileError: the page isn't what its checksum, its key or its context say.
        """
        info = image.info
        if checksum(image.data) != image.checksum or not _is_sound(info, self._identity.page_size):
            raise PageFileError(LossCause.DAMAGED, "damaged before it was written")
        is_packed = self._codec is Codec.ZSTD
        data = memoryview(image.data).cast("B")
        stored = memoryview(self._compressor.compress(data)) if is_packed else data
        header = PageHeader(
            info,
            protected,
            self._codec,
            header_bytes=0,  # known when the texts are
            memory_bytes=len(data),
            stored_bytes=len(stored),
            memory_checksum=image.checksum,
            stored_checksum=checksum(stored) if is_packed else image.checksum,
        )
        return _header_bytes(header, self._identity), stored


def header_size(start: bytes) -> int:
    """Returns how long the header is that begins so.

    Raises:
        PageFileError: it is no page, or one of another version.
    """
    if len(start) < _FIXED.size:
        raise PageFileError(LossCause.DAMAGED, "shorter than a header")
    magic, version, _, _, num_bytes = _PROLOGUE.unpack_from(start)
    if magic != _MAGIC:
        raise PageFileError(LossCause.DAMAGED, "no page")
    if version != _VERSION:
        raise PageFileError(LossCause.FOREIGN, "of another version")
    if not _FIXED.size + _CHECKSUM.size <= num_bytes <= MAX_HEADER_BYTES:
        raise PageFileError(LossCause.DAMAGED, "header of an impossible length")
    return int(num_bytes)


def read_header(data: bytes, identity: PageIdentity) -> PageHeader:
    """Reads a header of exactly `header_size` bytes.

    Raises:
        PageFileError: it is damaged, or of another model, layout or version.
    """
    num_bytes = header_size(data)
    if len(data) != num_bytes:
        raise PageFileError(LossCause.DAMAGED, "ends within the header")
    content = memoryview(data)[: -_CHECKSUM.size]
    if _CHECKSUM.unpack_from(data, len(content)) != (checksum(content),):
        raise PageFileError(LossCause.DAMAGED, "wrong checksum of the header")
    return _parse(data, identity)


def unpack(header: PageHeader, stored: memoryview) -> PageImage:
    """Checks what was stored and returns the page, in memory that can be written to if this can.

    Raises:
        PageFileError: it is not what was stored once.
    """
    if len(stored) != header.stored_bytes or checksum(stored) != header.stored_checksum:
        raise PageFileError(LossCause.DAMAGED, "wrong checksum of the memory")
    data = _decompress(header, stored) if header.codec is Codec.ZSTD else stored
    is_checked = header.codec is Codec.NONE and header.memory_checksum == header.stored_checksum
    if len(data) != header.memory_bytes or not (
        is_checked or checksum(data) == header.memory_checksum
    ):
        raise PageFileError(LossCause.DAMAGED, "wrong checksum of the memory, decompressed")
    return PageImage(header.info, data, header.memory_checksum)


def _decompress(header: PageHeader, stored: memoryview) -> memoryview:
    """Decompresses; a frame that promises another size is refused before memory is taken."""
    try:
        if zstandard.get_frame_parameters(stored).content_size != header.memory_bytes:
            raise PageFileError(LossCause.DAMAGED, "decompresses to another size")
        data, at = memoryview(bytearray(header.memory_bytes)), 0
        reader = zstandard.ZstdDecompressor().stream_reader(stored)
        while at < len(data) and (more := reader.readinto(data[at:])):
            at += more
        return data[:at]
    except zstandard.ZstdError as error:
        raise PageFileError(LossCause.DAMAGED, "can't be decompressed") from error


def _header_bytes(header: PageHeader, identity: PageIdentity) -> bytes:
    info = header.info
    texts = _texts(identity)
    tokens = struct.pack(f"<{len(info.tokens)}i", *info.tokens)
    num_bytes = _FIXED.size + sum(map(len, texts)) + len(tokens) + _CHECKSUM.size
    fixed = _FIXED.pack(
        _MAGIC,
        _VERSION,
        header.codec,
        _PROTECTED if header.is_protected else 0,
        num_bytes,
        identity.page_size,
        info.root,
        info.parent,
        info.key,
        info.start,
        len(info.tokens),
        *map(len, texts),
        header.memory_bytes,
        header.stored_bytes,
        header.memory_checksum,
        header.stored_checksum,
    )
    content = b"".join((fixed, *texts, tokens))
    return content + _CHECKSUM.pack(checksum(content))


def _parse(data: bytes, identity: PageIdentity) -> PageHeader:
    (_, _, codec, flags, num_bytes, page_size, root, parent, key, start, num_tokens, *rest) = (
        _FIXED.unpack_from(data)
    )
    lengths, (memory_bytes, stored_bytes, memory_sum, stored_sum) = rest[:4], rest[4:]
    end = _FIXED.size + sum(lengths)
    if end + 4 * num_tokens + _CHECKSUM.size != num_bytes:
        raise PageFileError(LossCause.DAMAGED, "lengths contradict each other")
    if page_size != identity.page_size or _cut(data, lengths) != _texts(identity):
        raise PageFileError(LossCause.FOREIGN, "of another model or layout")
    tokens = struct.unpack_from(f"<{num_tokens}i", data, end)
    info = PageInfo(root, parent, key, start, tokens)
    if codec not in tuple(Codec) or not _is_sound(info, page_size):
        raise PageFileError(LossCause.DAMAGED, "key and tokens contradict each other")
    return PageHeader(
        info,
        bool(flags & _PROTECTED),
        Codec(codec),
        num_bytes,
        memory_bytes,
        stored_bytes,
        memory_sum,
        stored_sum,
    )


def _is_sound(info: PageInfo, page_size: int) -> bool:
    """Whether a page is one that its key can name."""
    return (
        0 < len(info.tokens) <= page_size
        and (info.parent == info.root) == (info.start == 0)
        and len(info.root) == len(info.parent) == KEY_BYTES
        and info.is_genuine
    )


def _texts(identity: PageIdentity) -> tuple[bytes, ...]:
    return (
        identity.model_digest.encode(),
        identity.layout,
        identity.key_type.encode(),
        identity.value_type.encode(),
    )


def _cut(data: bytes, lengths: list[int]) -> tuple[bytes, ...]:
    at = _FIXED.size
    texts = []
    for length in lengths:
        texts.append(data[at : at + length])
        at += length
    return tuple(texts)


def _short_hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=8).hexdigest()
