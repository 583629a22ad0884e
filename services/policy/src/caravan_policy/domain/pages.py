"""Pages of lists. A token names the last entry of its page, so that lists may change in between."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from caravan_policy.domain.errors import InvalidFieldsError
from caravan_rpckit.errors import FieldViolation

T = TypeVar("T")

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000
_MAX_TOKEN_CHARS = 1024


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page is asked for."""

    size: int = 0
    token: str = ""

    @property
    def limit(self) -> int:
        """Most entries to return.

        Raises:
            InvalidFieldsError: the size is out of range.
        """
        if self.size > MAX_PAGE_SIZE:
            raise InvalidFieldsError([FieldViolation("page_size", f"must be 0 to {MAX_PAGE_SIZE}")])
        return self.size or DEFAULT_PAGE_SIZE

    def cursor(self, *scope: str) -> list[str] | None:
        """Where the page starts, for the list and filters named by `scope`; None at the start.

        Raises:
            InvalidFieldsError: the token is malformed, or of another list or filter.
        """
        if not self.token:
            return None
        parts = _decode(self.token)
        if parts is None or parts[: len(scope)] != list(scope) or len(parts) == len(scope):
            raise InvalidFieldsError([INVALID_TOKEN])
        return parts[len(scope) :]


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Entries, and the token of the next page; empty on the last."""

    entries: tuple[T, ...]
    next_token: str


INVALID_TOKEN = FieldViolation(
    "page_token", "must be the next_page_token of an answer to the same request"
)


def cut_page(
    entries: Sequence[T], limit: int, scope: Sequence[str], cursor_of: Callable[[T], Sequence[str]]
) -> Page[T]:
    """Makes a page of the first `limit` of `entries`, which were read one further than that."""
    page = tuple(entries[:limit])
    if len(entries) <= limit:
        return Page(page, "")
    return Page(page, _encode([*scope, *cursor_of(page[-1])]))


def _encode(parts: Sequence[str]) -> str:
    text = json.dumps(parts, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def _decode(token: str) -> list[str] | None:
    if len(token) > _MAX_TOKEN_CHARS or not token.isascii():
        return None
    try:
        padded = token + "=" * (-len(token) % 4)
        parts = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        return None
    if isinstance(parts, list) and all(isinstance(part, str) for part in parts):
        return parts
    return None
