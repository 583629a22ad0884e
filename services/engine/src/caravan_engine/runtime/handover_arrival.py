"""Gets what another worker of this model left of a request that goes on here."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from caravan_engine.domain.paging.page_image import PageImage
from caravan_engine.domain.request import GenerationRequest

Prepare = Callable[[GenerationRequest], Awaitable[None]]
"""Returns when what there is of a continued request is here."""


@dataclass(frozen=True, slots=True)
class ArrivalNumbers:
    """How many requests went on here, since the start of the process."""

    num_taken: int
    num_recomputed: int


class HandoverArrival:
    """Takes pages before a continued request is queued, so that it finds them in its turn.

    Owned by the event loop.

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
        self._num_taken = 0
        self._num_recomputed = 0

    def numbers(self) -> ArrivalNumbers:
        """Counts requests by whether anything was left of them."""
        return ArrivalNumbers(self._num_taken, self._num_recomputed)

    async def prepare(self, request: GenerationRequest) -> None:
        """See `Prepare`."""
        if request.continuation is None:
            return
        if images := await self._take(request):
            self._num_taken += 1
            self._take_in(images)
        else:
            self._num_recomputed += 1
            await self._otherwise(request)


async def take_nothing(request: GenerationRequest) -> Sequence[PageImage]:
    """For a `HandoverArrival` where nothing is ever left."""
    del request
    return ()
