"""What a worker does before it ends: nothing new, finish, hand over."""

import asyncio

from caravan_engine.domain.errors import DrainingError
from caravan_engine.runtime.engine_loop import EngineLoop
from caravan_engine.worker.handover import Handover
from caravan_rpckit.server import RpcServer


class Draining:
    """Owned by the event loop.

    Args:
        engine: Runs the requests.
        server: Says that it takes no more.
        handover: Takes what they have in memory; None leaves that to nobody.
        handover_s: Seconds for that.
    """

    def __init__(
        self, engine: EngineLoop, server: RpcServer, handover: Handover | None, handover_s: float
    ) -> None:
        self._engine = engine
        self._server = server
        self._handover = handover
        self._handover_s = handover_s
        self._ending: asyncio.Task[int] | None = None

    async def drain(self, timeout_s: float, *, hands_over: bool) -> int:
        """Waits until nothing runs; ends the rest after `timeout_s` and returns how many.

        Args:
            timeout_s: In which requests may finish.
            hands_over: Whether somebody could take over what the rest has in memory.
        """
        self._server.set_all_serving(False)
        drained = asyncio.wrap_future(self._engine.drain())
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(drained)
        except TimeoutError:
            if self._ending is None:  # who is told to end while it is drained has one end
                self._ending = asyncio.create_task(self._end(hands_over=hands_over))
            return await asyncio.shield(self._ending)
        return 0

    async def _end(self, *, hands_over: bool) -> int:
        if self._handover is None or not hands_over:
            return await self._end_all()
        handing_over = asyncio.wrap_future(self._engine.hand_over(self._handover.leave))
        try:
            async with asyncio.timeout(self._handover_s):
                return await asyncio.shield(handing_over)
        except TimeoutError:
            return await self._end_all() + await handing_over

    async def _end_all(self) -> int:
        return await asyncio.wrap_future(self._engine.end_all(DrainingError()))
