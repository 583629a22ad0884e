"""Gets the pages of what another worker began, where its disk is this one's too."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from caravan_engine.domain.paging.page_image import PageInfo, full_pages
from caravan_engine.domain.request import GenerationRequest


class PageAdoption:
    """Copies pages before a continued request is queued, so that it finds them in its turn.

    Args:
        adopt: Takes over pages, in order, up to the first that nobody has.
        root_of: Names the root of a tenant.
        page_size: Tokens of a full page.
    """

    def __init__(
        self,
        adopt: Callable[[Sequence[PageInfo]], Future[None]],
        *,
        root_of: Callable[[str], bytes],
        page_size: int,
    ) -> None:
        self._adopt = adopt
        self._root_of = root_of
        self._page_size = page_size

    async def prepare(self, request: GenerationRequest) -> None:
        """Returns when what there is of a continued request is here; others have nothing."""
        if request.continuation is None:
            return
        root = self._root_of(request.client.tenant)
        for choice in request.continuation.choices:
            tokens = (*request.prompt, *choice.tokens)[:-1]  # the last one is computed anyway
            if pages := full_pages(root, tokens, self._page_size):
                await asyncio.wrap_future(self._adopt(pages))


async def prepare_nothing(request: GenerationRequest) -> None:
    """In place of `PageAdoption.prepare` where no pages are on disk."""
    del request
