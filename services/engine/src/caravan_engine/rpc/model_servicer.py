"""`caravan.model.v1.ModelService` on the model manager."""

from collections.abc import AsyncIterator

from caravan.model.v1 import model_service_pb2 as model_pb
from caravan_engine.host.model_manager import ModelManager
from caravan_engine.rpc.convert_models import replica_count_of, to_model, to_progress
from caravan_rpckit.call import Call
from caravan_rpckit.name_pages import page_of


class ModelServicer:
    """Lists, loads and unloads."""

    def __init__(self, models: ModelManager, *, drain_timeout_s: float) -> None:
        self._models = models
        self._drain_timeout_s = drain_timeout_s

    async def ListModels(
        self, request: model_pb.ListModelsRequest, _call: Call
    ) -> model_pb.ListModelsResponse:
        """Lists a page of models."""
        models = await self._models.list_models()
        page, next_token = page_of(models, request.page_size, request.page_token)
        return model_pb.ListModelsResponse(
            models=[to_model(model) for model in page], next_page_token=next_token
        )

    async def GetModel(
        self, request: model_pb.GetModelRequest, _call: Call
    ) -> model_pb.GetModelResponse:
        """Looks one model up."""
        model = await self._models.get_model(request.model)
        return model_pb.GetModelResponse(model=to_model(model))

    async def LoadModel(
        self, request: model_pb.LoadModelRequest, _call: Call
    ) -> AsyncIterator[model_pb.LoadModelResponse]:
        """Loads a model; a caller that leaves doesn't stop that."""
        async for model, progress in self._models.load(request.model, replica_count_of(request)):
            yield to_progress(model, progress)

    async def UnloadModel(
        self, request: model_pb.UnloadModelRequest, _call: Call
    ) -> model_pb.UnloadModelResponse:
        """Drains and ends a model; a caller that leaves doesn't stop that."""
        timeout_s = self._drain_timeout_s
        if request.HasField("drain_timeout_ms"):
            timeout_s = request.drain_timeout_ms / 1000
        model, ended = await self._models.unload(request.model, timeout_s)
        return model_pb.UnloadModelResponse(model=to_model(model), ended_request_count=ended)
