"""The checksum of pages: finds damage by accident, not by intent."""

import xxhash


def checksum(data: bytes | bytearray | memoryview) -> int:
    """Returns the XXH3 checksum of `data`, unsigned 64 bits."""
    return xxhash.xxh3_64_intdigest(data)
