"""The engine's host, played."""

import asyncio

from fake_server import FakeServer, RefusedError

from caravan.engine.v1 import host_service_pb2 as host_pb
from caravan.model.v1 import endpoint_service_pb2 as endpoint_pb
from caravan.model.v1 import model_pb2, model_service_pb2
from caravan_rpckit.errors import Reason


class FakeEngine(FakeServer):
    """An engine host: what it says of its models is set by the test."""

    def __init__(self, home):
        super().__init__(home, "engine")
        self.models = {}
        self.endpoints = {}
        self.worker_stats = []
        self.says_numbers = True
        self.may_be_watched = True
        self.numbers_asked = asyncio.Event()
        self.numbers_ready = asyncio.Event()
        self.numbers_ready.set()
        self.loads_running = 0
        self.drains = []
        self._watchers: set[asyncio.Queue] = set()

    def add_to(self, server):
        server.add(
            self,
            endpoint_pb.DESCRIPTOR.services_by_name["EndpointService"],
            peers=("gateway",),
        )
        server.add(
            self,
            model_service_pb2.DESCRIPTOR.services_by_name["ModelService"],
            peers=("gateway",),
        )
        server.add(self, host_pb.DESCRIPTOR.services_by_name["HostService"], peers=("gateway",))

    def set_model(self, name, state="READY", *, aliases=(), replicas=()):
        self.models[name] = model_pb2.Model(
            name=name,
            aliases=aliases,
            state=model_pb2.ModelState.Value(f"MODEL_STATE_{state}"),
            replicas=replicas,
        )

    def set_endpoint(self, worker_id, address, *, model="tiny", replica_index=0, digest="d" * 64):
        self.endpoints[worker_id] = endpoint_pb.Endpoint(
            model=model,
            model_digest=digest,
            replica_index=replica_index,
            worker_id=worker_id,
            address=address,
        )

    def announce(self):
        for watcher in self._watchers:
            watcher.put_nowait(None)

    async def WatchEndpoints(self, request, call):
        news = asyncio.Queue()
        if not self.may_be_watched:
            raise RefusedError(Reason.INTERNAL)
        self._watchers.add(news)
        try:
            while True:
                yield endpoint_pb.WatchEndpointsResponse(
                    host_id="host-1",
                    models=self.models.values(),
                    endpoints=self.endpoints.values(),
                )
                await news.get()
                if not self.may_be_watched:
                    raise RefusedError(Reason.INTERNAL)
        finally:
            self._watchers.discard(news)

    async def GetWorkerStats(self, request, call):
        self.numbers_asked.set()
        await self.numbers_ready.wait()
        if not self.says_numbers:
            raise RefusedError(Reason.INTERNAL)
        return host_pb.GetWorkerStatsResponse(workers=self.worker_stats)

    async def DrainWorkers(self, request, call):
        self.drains.append(request)
        return host_pb.DrainWorkersResponse(worker_count=2, ended_request_count=1)

    async def ListModels(self, request, call):
        return model_service_pb2.ListModelsResponse(models=self.models.values())

    async def GetModel(self, request, call):
        if request.model not in self.models:
            raise RefusedError(Reason.MODEL_NOT_FOUND, metadata={"model": request.model})
        return model_service_pb2.GetModelResponse(model=self.models[request.model])

    async def LoadModel(self, request, call):
        self.loads_running += 1
        try:
            yield model_service_pb2.LoadModelResponse(phase=model_service_pb2.LOAD_PHASE_LOADING)
            if request.model == "slow":
                await asyncio.Event().wait()
            yield model_service_pb2.LoadModelResponse(phase=model_service_pb2.LOAD_PHASE_READY)
        finally:
            self.loads_running -= 1

    async def UnloadModel(self, request, call):
        return model_service_pb2.UnloadModelResponse()
