"""Hashes of an input's beginnings, by which the worker that has them is found again.

The gateway doesn't tokenize, so they are made of the input's bytes: at 128, 192, 256, 384, 512 ...
bytes, each length by a third or a half more than the one before. Whatever two inputs have in
common is found to two thirds at least, and the largest request has 31 marks. Tenant and model go
in first: a tenant can't probe another's texts, and the same text on another model is another one.
"""

import hashlib
from collections.abc import Iterator

from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan_gateway.domain.affinity import InputMarks
from caravan_gateway.domain.inference_call import InferenceCall

_SHORTEST = 128
_HASH_BYTES = 4  # a mark that two texts share by chance costs a detour
_SEPARATOR = b"\0"


def marks_of(call: InferenceCall) -> InputMarks | None:
    """The marks of an authenticated generation whose model is resolved; None of other calls."""
    request = call.request
    if not isinstance(request, generation_pb.GenerateRequest) or call.identity is None:
        return None
    root = _hash(call.identity.tenant.encode() + _SEPARATOR + call.model.encode())
    session = None
    if request.HasField("session_id"):
        session = _mark_of(_hash(root.digest() + b"session" + request.session_id.encode()))
    data, text = _input_bytes(request), _hash(root.digest() + b"text")
    hashes, shares, start = [], [], 0
    for end in _ends(len(data)):
        text.update(data[start:end])
        hashes.append(_mark_of(text))
        shares.append(end / len(data))
        start = end
    return InputMarks(tuple(hashes), tuple(shares), session)


def _ends(size: int) -> Iterator[int]:
    end = _SHORTEST
    while end <= size:
        yield end
        if end * 3 // 2 <= size:
            yield end * 3 // 2
        end *= 2


def _input_bytes(request: generation_pb.GenerateRequest) -> memoryview:
    match request.WhichOneof("input"):
        case "text":
            return memoryview(request.text.encode())
        case "token_ids":
            return memoryview(
                b"".join(each.to_bytes(4, "little") for each in request.token_ids.ids)
            )
        case "chat":
            turns = (
                (bytes((turn.role % 256,)), turn.content.encode()) for turn in request.chat.messages
            )
            return memoryview(_SEPARATOR.join(part for turn in turns for part in turn))
    return memoryview(b"")


def _hash(data: bytes) -> "hashlib.blake2b":
    return hashlib.blake2b(data, digest_size=16)


def _mark_of(found: "hashlib.blake2b") -> int:
    return int.from_bytes(found.digest()[:_HASH_BYTES], "little")
