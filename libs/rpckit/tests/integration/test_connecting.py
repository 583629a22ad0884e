"""How a channel connects to a server that is there, but busy."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from caravan.model.v1 import model_service_pb2 as model_pb
from caravan.model.v1 import model_service_pb2_grpc as model_grpc
from caravan_rpckit.channel import open_channel

DELAY_S = 0.5  # more than the pause between two attempts


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@pytest.fixture
async def busy_address(server):
    """Passes connections on to the server, after a while; counts them."""
    accepted = []

    async def accept(reader, writer):
        accepted.append(writer)
        await asyncio.sleep(DELAY_S)
        behind, ahead = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(
            _pass_on(reader, ahead), _pass_on(behind, writer), return_exceptions=True
        )

    async with AsyncExitStack() as stack:
        front = await stack.enter_async_context(await asyncio.start_server(accept, "127.0.0.1", 0))
        yield f"127.0.0.1:{front.sockets[0].getsockname()[1]}", accepted


async def test_a_busy_server_is_not_given_up_on_while_it_accepts(busy_address):
    address, accepted = busy_address
    async with open_channel(address) as channel:
        models = model_grpc.ModelServiceStub(channel)
        answer = await models.GetModel(model_pb.GetModelRequest(model="m"), timeout=20)
    assert answer.model.name == "m"
    assert len(accepted) == 1
