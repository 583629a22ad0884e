"""Pages of lists that are ordered by name, and their tokens. Pure."""

import base64
import binascii
from collections.abc import Sequence
from typing import ClassVar, Protocol, TypeVar

from caravan_rpckit.errors import CaravanError, FieldViolation, Reason

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000


class InvalidPageError(CaravanError):
    """The page size or token is none that we gave."""

    reason: ClassVar[Reason] = Reason.INVALID_FIELD

    def __init__(self, field: str, description: str) -> None:
        super().__init__(
            f"{field}: {description}.", field_violations=[FieldViolation(field, description)]
        )


class Named(Protocol):
    """What is listed."""

    @property
    def name(self) -> str:
        """Orders the list; unique in it."""


Entry = TypeVar("Entry", bound=Named)


def page_of(
    entries: Sequence[Entry], page_size: int, page_token: str
) -> tuple[Sequence[Entry], str]:
    """Returns a page of `entries`, which are ordered by name, and the token of the next one.

    The token is the last name of the page, so entries that come and go move no page.

    Raises:
        InvalidPageError: `page_size` or `page_token` is out of bounds.
    """
    if page_size > MAX_PAGE_SIZE:
        raise InvalidPageError("page_size", f"must be at most {MAX_PAGE_SIZE}")
    size = page_size or DEFAULT_PAGE_SIZE
    after = _name_of(page_token)
    rest = [entry for entry in entries if after is None or entry.name > after]
    page = rest[:size]
    return page, _token_of(page[-1].name) if len(rest) > size else ""


def _token_of(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode("ascii")


def _name_of(token: str) -> str | None:
    if not token:
        return None
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise InvalidPageError("page_token", "must be a next_page_token") from error
