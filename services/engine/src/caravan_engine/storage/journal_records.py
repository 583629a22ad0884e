"""The format of a journal: a header, then records, each in a frame of its own.

    header  magic 8 | version 2 | identity 16 | nonce 8 | checksum of all before it 8
    frame   payload bytes 4 | kind 1 | checksum 8 | payload

Little-endian. A frame's checksum covers its length, kind and payload, and begins with the nonce and
the frame's number: what another journal, an earlier state of this one, or another place in it holds
is not taken for a record. Reading ends where something is not right: what follows a torn or damaged
record can't be relied on. Knows bytes only; the file is `journal`'s.
"""

import secrets
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import xxhash

from caravan_engine.domain.recovery.records import (
    ChoiceFinished,
    ComputationBegan,
    Handle,
    Record,
    RequestBegan,
    RequestEnded,
    TokensLeft,
)
from caravan_engine.storage.checksums import checksum

IDENTITY_BYTES = 16

_MAGIC = b"CARAVJNL"
_VERSION = 1
_HEADER = struct.Struct(f"<8sH{IDENTITY_BYTES}sQ")
_CHECKSUM = struct.Struct("<Q")
_FRAME = struct.Struct("<IBQ")
_FRAME_START = struct.Struct("<IB")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size

_BEGAN = struct.Struct("<Qq")
_COMPUTING = struct.Struct("<QI")
_TOKENS = struct.Struct("<QBIIBd")  # handle, choice, offset, count, whether there is a mu, mu
_FINISHED = struct.Struct("<QB")
_ENDED = struct.Struct("<Q")
_SEED_BITS = 2**64 - 1


class _Kind(IntEnum):
    """What a record is; the number is in the file."""

    BEGAN = 1
    COMPUTING = 2
    TOKENS = 3
    FINISHED = 4
    ENDED = 5


@dataclass(frozen=True, slots=True)
class JournalHeader:
    """What a journal says of itself. The nonce is drawn anew for each file."""

    identity: bytes
    nonce: int

    @classmethod
    def new(cls, identity: bytes) -> "JournalHeader":
        """Returns the header of a new journal."""
        return cls(identity, secrets.randbits(64))

    def to_bytes(self) -> bytes:
        """Returns the header as it is in the file."""
        content = _HEADER.pack(_MAGIC, _VERSION, self.identity, self.nonce)
        return content + _CHECKSUM.pack(checksum(content))


def read_header(data: bytes) -> JournalHeader | None:
    """Returns the header that `data` begin with; None if there is none that can be read."""
    if len(data) < HEADER_BYTES:
        return None
    magic, version, identity, nonce = _HEADER.unpack_from(data)
    (found,) = _CHECKSUM.unpack_from(data, _HEADER.size)
    is_sound = found == checksum(data[: _HEADER.size])
    if magic != _MAGIC or version != _VERSION or not is_sound:
        return None
    return JournalHeader(identity, nonce)


def pack(records: Iterable[Record], nonce: int, first_number: int) -> tuple[bytes, int]:
    """Returns records in their frames, and how many there are.

    Args:
        records: In order.
        nonce: Of the header.
        first_number: How many records are before them in the file.
    """
    parts: list[bytes] = []
    number = first_number
    for record in records:
        kind, payload = _payload(record)
        start = _FRAME_START.pack(len(payload), kind)
        parts += (start, _CHECKSUM.pack(_frame_checksum(start, payload, nonce, number)), payload)
        number += 1
    return b"".join(parts), number - first_number


def unpack(data: bytes, nonce: int) -> Iterator[Record]:
    """Yields the records of a journal, without its header, up to the first that isn't whole."""
    at, number, view = 0, 0, memoryview(data)
    while at + _FRAME.size <= len(data):
        num_bytes, kind, found = _FRAME.unpack_from(data, at)
        start, payload = view[at : at + _FRAME_START.size], view[at + _FRAME.size :][:num_bytes]
        if len(payload) < num_bytes or found != _frame_checksum(start, payload, nonce, number):
            return
        yield _record(_Kind(kind), payload)
        at += _FRAME.size + num_bytes
        number += 1


def _frame_checksum(
    start: bytes | memoryview, payload: bytes | memoryview, nonce: int, number: int
) -> int:
    state = xxhash.xxh3_64(seed=(nonce + number) & _SEED_BITS)
    state.update(start)
    state.update(payload)
    return state.intdigest()


def _payload(record: Record) -> tuple[_Kind, bytes]:
    match record:
        case RequestBegan(handle, request, began_ms):
            return _Kind.BEGAN, _BEGAN.pack(handle, began_ms) + request
        case ComputationBegan(handle, cached_tokens):
            return _Kind.COMPUTING, _COMPUTING.pack(handle, cached_tokens)
        case TokensLeft(handle, index, offset, tokens, mu):
            fixed = _TOKENS.pack(
                handle, index, offset, len(tokens), mu is not None, 0.0 if mu is None else mu
            )
            return _Kind.TOKENS, fixed + struct.pack(f"<{len(tokens)}i", *tokens)
        case ChoiceFinished(handle, index):
            return _Kind.FINISHED, _FINISHED.pack(handle, index)
        case RequestEnded(handle):
            return _Kind.ENDED, _ENDED.pack(handle)


def _record(kind: _Kind, payload: memoryview) -> Record:
    """Reads what was written so: the checksum was right."""
    match kind:
        case _Kind.BEGAN:
            handle, began_ms = _BEGAN.unpack_from(payload)
            return RequestBegan(Handle(handle), bytes(payload[_BEGAN.size :]), began_ms)
        case _Kind.COMPUTING:
            handle, cached_tokens = _COMPUTING.unpack(payload)
            return ComputationBegan(Handle(handle), cached_tokens)
        case _Kind.TOKENS:
            handle, index, offset, count, has_mu, mu = _TOKENS.unpack_from(payload)
            tokens = struct.unpack_from(f"<{count}i", payload, _TOKENS.size)
            return TokensLeft(Handle(handle), index, offset, tokens, mu if has_mu else None)
        case _Kind.FINISHED:
            handle, index = _FINISHED.unpack(payload)
            return ChoiceFinished(Handle(handle), index)
        case _Kind.ENDED:
            (handle,) = _ENDED.unpack(payload)
            return RequestEnded(Handle(handle))
