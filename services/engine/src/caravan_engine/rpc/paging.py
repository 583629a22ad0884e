"""Page tokens of lists that are ordered by name. Pure."""

import base64
import binascii
from collections.abc import Sequence

from caravan_engine.host.models import ModelView
from caravan_engine.rpc.errors import InvalidPageError

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000


def page_of(
    models: Sequence[ModelView], page_size: int, page_token: str
) -> tuple[Sequence[ModelView], str]:
    """Returns a page of `models`, which are ordered by name, and the token of the next one.

    The token is the last name of the page, so models that come and go move no page.

    Raises:
        InvalidPageError: `page_size` or `page_token` is out of bounds.
    """
    if page_size > MAX_PAGE_SIZE:
        raise InvalidPageError("page_size", f"at most {MAX_PAGE_SIZE}")
    size = page_size or DEFAULT_PAGE_SIZE
    after = _name_of(page_token)
    rest = [model for model in models if after is None or model.name > after]
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
