import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from caravan.model.v1 import model_service_pb2 as model_pb
from caravan.telemetry.v1 import ingest_service_pb2 as ingest_pb
from caravan_rpckit.call import Call
from caravan_rpckit.errors import CaravanError, Reason
from caravan_rpckit.server import RpcServer

CANARY = "canary-5f1c"


class TeapotError(CaravanError):
    reason = Reason.MODEL_NOT_FOUND


class ModelServicer:
    """Answers by the name of the model it is asked for."""

    def __init__(self):
        self.live = 0
        self.last_taken_s = 0.0
        self.calls: list[Call] = []

    async def ListModels(self, request: model_pb.ListModelsRequest, call: Call):
        return model_pb.ListModelsResponse().SerializeToString()

    async def GetModel(self, request: model_pb.GetModelRequest, call: Call):
        self.calls.append(call)
        if request.model == "missing":
            raise TeapotError("No such model.", metadata={"model": "missing"})
        if request.model == "late":
            await call.begin_initial_metadata()
            raise TeapotError("No such model.", metadata={"model": "late"})
        if request.model == "crash":
            raise ValueError(CANARY)
        if request.model == "hang":
            await self._hang()
        response = model_pb.GetModelResponse()
        response.model.name = request.model
        return response

    async def LoadModel(self, request: model_pb.LoadModelRequest, call: Call) -> AsyncIterator:
        self.calls.append(call)
        if request.model == "flood":
            async for response in self._flood():
                yield response
        for index in range(3):
            yield model_pb.LoadModelResponse(fraction=index)
            if request.model == "missing":
                raise TeapotError("No such model.")
        if request.model == "hang":
            await self._hang()

    async def UnloadModel(self, request: model_pb.UnloadModelRequest, call: Call):
        return model_pb.UnloadModelResponse()

    @property
    def is_blocked(self) -> bool:
        """Whether the client has taken nothing of the flood for a while."""
        return self.live > 0 and time.monotonic() - self.last_taken_s > 0.3

    async def _flood(self):
        self.live += 1
        try:
            while True:
                self.last_taken_s = time.monotonic()
                yield model_pb.LoadModelResponse(model={"name": "x" * 65_536})
        finally:
            self.live -= 1

    async def _hang(self):
        self.live += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.live -= 1


class IngestServicer:
    async def IngestUsage(self, request: ingest_pb.IngestUsageRequest, call: Call):
        return ingest_pb.IngestUsageResponse(stored_count=len(request.records))

    async def StreamWorkerStats(self, requests, call: Call):
        async for request in requests:
            if request.host_id == "bad":
                raise TeapotError("No.")
        return ingest_pb.StreamWorkerStatsResponse()


@pytest.fixture
def servicer():
    return ModelServicer()


@pytest.fixture
async def server(servicer):
    server = RpcServer("127.0.0.1:0", announce_request_id=True)
    server.add(servicer, model_pb.DESCRIPTOR.services_by_name["ModelService"])
    server.add(IngestServicer(), ingest_pb.DESCRIPTOR.services_by_name["IngestService"])
    await server.start()
    server.set_all_serving(True)
    yield server
    await server.stop(0)
