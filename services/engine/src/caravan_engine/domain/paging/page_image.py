"""What is known of a page wherever it lies, and a copy of its memory outside the cells."""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class PageInfo:
    """A page's place in the text that it belongs to.

    A key names the whole text up to the page's end, root included, so two pages with the same key
    hold the same memory, and nobody can name a page of a tenant whose root he doesn't have.

    Source: chained block hashes as in vLLM's automatic prefix caching, with the tenant in the root.
    """

    root: bytes  # whose pages these are: `root_key` of a tenant
    parent: bytes  # key of the page before; the root for the first
    key: bytes
    start: int  # position of the first token
    tokens: tuple[int, ...]  # page_size of them; fewer only at the end of a text

    @property
    def end(self) -> int:
        """Position after the last token."""
        return self.start + len(self.tokens)

    @property
    def is_genuine(self) -> bool:
        """Whether the key is that of the tokens."""
        return self.key == page_key(self.parent, self.tokens)


@dataclass(frozen=True, slots=True)
class PageImage:
    """A page's memory as the backend exported it, or as it was read from disk.

    Nobody changes it but to zero it; usable from any thread.
    """

    info: PageInfo
    data: bytes | memoryview
    checksum: int  # of `data`, unsigned 64 bits

    def zero(self) -> None:
        """Overwrites the memory, which then no longer has its checksum."""
        data = memoryview(self.data)
        if not data.readonly:
            data[:] = bytes(len(data))


def full_pages(root: bytes, tokens: Sequence[int], page_size: int) -> list[PageInfo]:
    """Returns the full pages that a text consists of, in order."""
    pages, parent = list[PageInfo](), root
    for start in range(0, len(tokens) - len(tokens) % page_size, page_size):
        part = tuple(tokens[start : start + page_size])
        pages.append(PageInfo(root, parent, page_key(parent, part), start, part))
        parent = pages[-1].key
    return pages


def root_key(model_digest: str, tenant: str) -> bytes:
    """Returns the key of a tenant's empty text."""
    return _hash(model_digest.encode(), b"tenant", tenant.encode())


def page_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    """Returns the key of a text that ends with `tokens` after the text of `parent`."""
    return _hash(parent, struct.pack(f"<{len(tokens)}i", *tokens))


def _hash(*parts: bytes) -> bytes:
    """Hashes parts unambiguously: each is preceded by its length."""
    state = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        state.update(struct.pack("<Q", len(part)))
        state.update(part)
    return state.digest()
