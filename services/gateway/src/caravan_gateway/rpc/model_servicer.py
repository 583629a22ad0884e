"""Serves `caravan.model.v1.ModelService` by passing it on to an engine host."""

from collections.abc import AsyncGenerator
from typing import Protocol

from caravan.model.v1 import model_service_pb2 as model_pb
from caravan_gateway.rpc.forwarding import (
    StreamForwarder,
    UnaryForwarder,
    pass_on,
    pass_on_stream,
)
from caravan_gateway.runtime.access import AccessGate
from caravan_rpckit.call import Call


class EngineForwarder(UnaryForwarder, StreamForwarder, Protocol):
    """The engine hosts."""


class ModelServicer:
    """Lets through who may; the engine host answers."""

    def __init__(self, gate: AccessGate, engines: EngineForwarder) -> None:
        self._gate = gate
        self._engines = engines

    async def ListModels(self, request: model_pb.ListModelsRequest, call: Call) -> bytes:
        """Passes on."""
        return await pass_on(self._gate, self._engines, request, call)

    async def GetModel(self, request: model_pb.GetModelRequest, call: Call) -> bytes:
        """Passes on."""
        return await pass_on(self._gate, self._engines, request, call, request.model)

    async def LoadModel(
        self, request: model_pb.LoadModelRequest, call: Call
    ) -> AsyncGenerator[bytes, None]:
        """Passes on."""
        async for answer in pass_on_stream(self._gate, self._engines, request, call, request.model):
            yield answer

    async def UnloadModel(self, request: model_pb.UnloadModelRequest, call: Call) -> bytes:
        """Passes on."""
        return await pass_on(self._gate, self._engines, request, call, request.model)
