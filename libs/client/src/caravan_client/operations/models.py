"""The calls of `caravan.model.v1.ModelService`."""

from caravan.model.v1 import model_pb2 as model_pb
from caravan.model.v1 import model_service_pb2 as service_pb
from caravan_client.operations.operation import Operation, Page, fill, operation
from caravan_client.resources import (
    KvUnit,
    LoadPhase,
    LoadProgress,
    Model,
    ModelDetails,
    ModelState,
    Replica,
    ReplicaState,
    UnloadedModel,
)

_SERVICE = "/caravan.model.v1.ModelService/"

_STATES = {
    model_pb.MODEL_STATE_UNLOADED: ModelState.UNLOADED,
    model_pb.MODEL_STATE_LOADING: ModelState.LOADING,
    model_pb.MODEL_STATE_READY: ModelState.READY,
    model_pb.MODEL_STATE_DRAINING: ModelState.DRAINING,
    model_pb.MODEL_STATE_FAILED: ModelState.FAILED,
}
_REPLICA_STATES = {
    model_pb.REPLICA_STATE_STARTING: ReplicaState.STARTING,
    model_pb.REPLICA_STATE_READY: ReplicaState.READY,
    model_pb.REPLICA_STATE_DRAINING: ReplicaState.DRAINING,
    model_pb.REPLICA_STATE_RESTARTING: ReplicaState.RESTARTING,
    model_pb.REPLICA_STATE_FAILED: ReplicaState.FAILED,
}
_KV_UNITS = {
    model_pb.KV_UNIT_PAGES: KvUnit.PAGES,
    model_pb.KV_UNIT_SEQUENCES: KvUnit.SEQUENCES,
}
_PHASES = {
    service_pb.LOAD_PHASE_VERIFYING: LoadPhase.VERIFYING,
    service_pb.LOAD_PHASE_PLANNING: LoadPhase.PLANNING,
    service_pb.LOAD_PHASE_LOADING: LoadPhase.LOADING,
    service_pb.LOAD_PHASE_WARMING_UP: LoadPhase.WARMING_UP,
    service_pb.LOAD_PHASE_READY: LoadPhase.READY,
}


def list_models(token: str) -> Operation[Page[Model]]:
    """Asks for a page of models."""
    request = service_pb.ListModelsRequest(page_token=token)
    return operation(f"{_SERVICE}ListModels", request, service_pb.ListModelsResponse, _parse_page)


def get_model(name: str) -> Operation[Model]:
    """Asks for one model by name or alias."""
    request = service_pb.GetModelRequest()
    fill(request, model=name)
    return operation(
        f"{_SERVICE}GetModel",
        request,
        service_pb.GetModelResponse,
        lambda response: parse_model(response.model),
    )


def load_model(name: str, replicas: int | None = None) -> Operation[LoadProgress]:
    """Asks to load a model, with progress."""
    request = service_pb.LoadModelRequest()
    fill(request, model=name, replica_count=replicas)
    return operation(f"{_SERVICE}LoadModel", request, service_pb.LoadModelResponse, _parse_progress)


def unload_model(name: str, drain_timeout_s: float | None) -> Operation[UnloadedModel]:
    """Asks to unload a model."""
    request = service_pb.UnloadModelRequest()
    drain_timeout_ms = None if drain_timeout_s is None else round(drain_timeout_s * 1000)
    fill(request, model=name, drain_timeout_ms=drain_timeout_ms)
    return operation(
        f"{_SERVICE}UnloadModel",
        request,
        service_pb.UnloadModelResponse,
        lambda response: UnloadedModel(parse_model(response.model), response.ended_request_count),
    )


def parse_model(model: model_pb.Model) -> Model:
    """Reads a model, wherever it stands in an answer."""
    return Model(
        name=model.name,
        aliases=tuple(model.aliases),
        state=_STATES.get(model.state, ModelState.UNKNOWN),
        state_detail=model.state_detail,
        digest=model.digest,
        size_bytes=model.size_bytes,
        details=_parse_details(model.details) if model.HasField("details") else None,
        replicas=tuple(_parse_replica(replica) for replica in model.replicas),
    )


def kv_unit_of(unit: model_pb.KvUnit.ValueType) -> KvUnit:
    """Reads what memory is kept by."""
    return _KV_UNITS.get(unit, KvUnit.UNKNOWN)


def _parse_details(details: model_pb.ModelDetails) -> ModelDetails:
    return ModelDetails(
        architecture=details.architecture,
        description=details.description,
        context_tokens=details.context_tokens,
        num_cells=details.cell_count,
        vocabulary_size=details.vocabulary_size,
        num_layers=details.layer_count,
        has_chat_template=details.has_chat_template,
        kv_unit=kv_unit_of(details.kv_unit),
    )


def _parse_replica(replica: model_pb.Replica) -> Replica:
    return Replica(
        index=replica.index,
        state=_REPLICA_STATES.get(replica.state, ReplicaState.UNKNOWN),
        num_restarts=replica.restart_count,
        state_detail=replica.state_detail,
        process_id=replica.process_id if replica.HasField("process_id") else None,
    )


def _parse_page(response: service_pb.ListModelsResponse) -> Page[Model]:
    models = tuple(parse_model(model) for model in response.models)
    return Page(models, response.next_page_token)


def _parse_progress(response: service_pb.LoadModelResponse) -> LoadProgress:
    return LoadProgress(
        phase=_PHASES.get(response.phase, LoadPhase.UNKNOWN),
        fraction=response.fraction,
        model=parse_model(response.model),
        needed_bytes=response.needed_bytes,
        budget_bytes=response.budget_bytes,
    )
