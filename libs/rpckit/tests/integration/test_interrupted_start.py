import asyncio
import contextlib

import pytest

from caravan_rpckit.server import RpcServer


@pytest.mark.parametrize("num_turns", range(8))
async def test_a_server_whose_start_is_interrupted_can_be_stopped(num_turns):
    server = RpcServer("127.0.0.1:0", tls=None)
    starting = asyncio.create_task(server.start())
    for _ in range(num_turns):
        await asyncio.sleep(0)
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    await server.stop(0)
    await server.stop(0)
