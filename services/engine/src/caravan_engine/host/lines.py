"""Splits a pipe into lines without ever holding more of one than a limit."""

import asyncio
from collections.abc import AsyncIterator

_CHUNK_BYTES = 64 * 1024


async def read_lines(reader: asyncio.StreamReader, *, limit_bytes: int) -> AsyncIterator[bytes]:
    """Yields lines without their newline until the pipe ends; longer ones are cut at the limit.

    `StreamReader.readline` raises on a long line and stops reading, which blocks the writer.
    """
    line = bytearray()
    while chunk := await reader.read(_CHUNK_BYTES):
        *complete, rest = chunk.split(b"\n")
        for piece in complete:
            line += piece[: limit_bytes - len(line)]
            yield bytes(line)
            line.clear()
        line += rest[: limit_bytes - len(line)]
    if line:
        yield bytes(line)
