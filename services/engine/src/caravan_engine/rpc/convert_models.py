"""Models, replicas, progress and endpoints: from the host's values to protos."""

from collections.abc import Callable

from caravan.model.v1 import endpoint_service_pb2 as endpoint_pb
from caravan.model.v1 import model_pb2 as model_pb
from caravan.model.v1 import model_service_pb2 as service_pb
from caravan_engine.config import MAX_REPLICAS
from caravan_engine.control.events import LoadPhase, ModelDetails
from caravan_engine.domain.errors import InvalidFieldError
from caravan_engine.domain.kv_numbers import KvUnit
from caravan_engine.host.models import (
    EndpointView,
    LoadProgress,
    ModelState,
    ModelView,
    Picture,
    ReplicaView,
)
from caravan_engine.host.supervisor import ReplicaState
from caravan_rpckit.errors import FieldViolation

_MODEL_STATES = {
    ModelState.UNLOADED: model_pb.MODEL_STATE_UNLOADED,
    ModelState.LOADING: model_pb.MODEL_STATE_LOADING,
    ModelState.READY: model_pb.MODEL_STATE_READY,
    ModelState.DRAINING: model_pb.MODEL_STATE_DRAINING,
    ModelState.FAILED: model_pb.MODEL_STATE_FAILED,
}
_REPLICA_STATES = {
    ReplicaState.STARTING: model_pb.REPLICA_STATE_STARTING,
    ReplicaState.READY: model_pb.REPLICA_STATE_READY,
    ReplicaState.DRAINING: model_pb.REPLICA_STATE_DRAINING,
    ReplicaState.ENDED: model_pb.REPLICA_STATE_DRAINING,
    ReplicaState.RESTARTING: model_pb.REPLICA_STATE_RESTARTING,
    ReplicaState.FAILED: model_pb.REPLICA_STATE_FAILED,
}
_KV_UNITS = {
    KvUnit.PAGES: model_pb.KV_UNIT_PAGES,
    KvUnit.SEQUENCES: model_pb.KV_UNIT_SEQUENCES,
}
_PHASES = {
    LoadPhase.VERIFYING: service_pb.LOAD_PHASE_VERIFYING,
    LoadPhase.PLANNING: service_pb.LOAD_PHASE_PLANNING,
    LoadPhase.LOADING: service_pb.LOAD_PHASE_LOADING,
    LoadPhase.WARMING_UP: service_pb.LOAD_PHASE_WARMING_UP,
    LoadPhase.READY: service_pb.LOAD_PHASE_READY,
}


def replica_count_of(request: service_pb.LoadModelRequest) -> int | None:
    """How many workers are asked for, if that is said.

    Raises:
        InvalidFieldError: none, or too many.
    """
    if not request.HasField("replica_count"):
        return None
    if not 1 <= request.replica_count <= MAX_REPLICAS:
        description = f"must be between 1 and {MAX_REPLICAS}"
        raise InvalidFieldError(FieldViolation("replica_count", description))
    return request.replica_count


def to_model(view: ModelView) -> model_pb.Model:
    """Converts a model."""
    return model_pb.Model(
        name=view.name,
        aliases=view.aliases,
        state=_MODEL_STATES[view.state],
        state_detail=view.detail,
        digest=view.digest,
        size_bytes=view.size_bytes,
        details=None if view.details is None else _to_details(view.details),
        replicas=[_to_replica(replica) for replica in view.replicas],
    )


def to_progress(view: ModelView, progress: LoadProgress) -> service_pb.LoadModelResponse:
    """Converts a step of loading."""
    return service_pb.LoadModelResponse(
        phase=_PHASES[progress.phase],
        fraction=progress.fraction,
        model=to_model(view),
        needed_bytes=progress.needed_bytes,
        budget_bytes=progress.budget_bytes,
    )


def to_picture(
    picture: Picture, *, host_id: str, address_of: Callable[[int], str]
) -> endpoint_pb.WatchEndpointsResponse:
    """Converts the picture; `address_of` gives the address of a worker's port."""
    return endpoint_pb.WatchEndpointsResponse(
        host_id=host_id,
        models=[to_model(view) for view in picture.models],
        endpoints=[_to_endpoint(view, address_of(view.port)) for view in picture.endpoints],
        leaving=picture.leaving,
    )


def _to_details(details: ModelDetails) -> model_pb.ModelDetails:
    return model_pb.ModelDetails(
        architecture=details.architecture,
        description=details.description,
        context_tokens=details.context_tokens,
        cell_count=details.cell_count,
        vocabulary_size=details.vocabulary_size,
        layer_count=details.layer_count,
        has_chat_template=details.has_chat_template,
        kv_unit=_KV_UNITS[details.kv_unit],
    )


def _to_replica(view: ReplicaView) -> model_pb.Replica:
    return model_pb.Replica(
        index=view.index,
        state=_REPLICA_STATES[view.state],
        restart_count=view.restart_count,
        state_detail=view.detail,
        process_id=view.process_id,
    )


def _to_endpoint(view: EndpointView, address: str) -> endpoint_pb.Endpoint:
    return endpoint_pb.Endpoint(
        model=view.model,
        model_digest=view.digest,
        replica_index=view.replica_index,
        worker_id=view.worker_id,
        address=address,
    )
