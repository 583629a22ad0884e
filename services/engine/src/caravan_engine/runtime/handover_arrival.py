"""Gets what another worker of this model left of a request that goes on here."""

from collections.abc import Awaitable, Callable, Sequence

from caravan_engine.domain.paging.page_image import PageImage
from caravan_engine.domain.request import GenerationRequest

Prepare = Callable[[GenerationRequest], Awaitable[None]]
"""Returns when what there is of a continued request is here."""


class HandoverArrival:
    """Takes pages before a continued request is queued, so that it finds them in its turn.

    Args:
        take: Returns what there is, each page after the one before it.
        take_in: Has the decode thread take it, before what it is told later.
        otherwise: Looks elsewhere for what isn't there.
    """

    def __init__(
        self,
        take: Callable[[GenerationRequest], Awaitable[Sequence[PageImage]]],
        take_in: Callable[[Sequence[PageImage]], object],
        otherwise: Prepare,
    ) -> None:
        self._take = take
        self._take_in = take_in
        self._otherwise = otherwise

    async def prepare(self, request: GenerationRequest) -> None:
        """See `Prepare`."""
        images = await self._take(request) if request.continuation is not None else ()
        if images:
            self._take_in(images)
        else:
            await self._otherwise(request)
