"""The calls of `caravan.gateway.v1.GatewayAdminService` about checkpoints."""

from caravan.engine.v1 import checkpoints_pb2 as pb
from caravan.gateway.v1 import gateway_admin_service_pb2 as service_pb
from caravan_client.operations.operation import Operation, fill, operation
from caravan_client.operations.timestamps import time_of
from caravan_client.resources import (
    Checkpoints,
    JournalState,
    PrunedCheckpoints,
    RequestCheckpoint,
    RequestState,
)

_SERVICE = "/caravan.gateway.v1.GatewayAdminService/"
_JOURNAL_STATES = {
    pb.JOURNAL_STATE_OFF: JournalState.OFF,
    pb.JOURNAL_STATE_WRITTEN: JournalState.WRITTEN,
    pb.JOURNAL_STATE_GIVEN_UP: JournalState.GIVEN_UP,
}
_REQUEST_STATES = {
    pb.REQUEST_STATE_WAITING: RequestState.WAITING,
    pb.REQUEST_STATE_RUNNING: RequestState.RUNNING,
    pb.REQUEST_STATE_RECOVERABLE: RequestState.RECOVERABLE,
}


def list_checkpoints(model: str | None) -> Operation[tuple[Checkpoints, ...]]:
    """Asks what workers have on disk for the time after their death."""
    request = service_pb.ListCheckpointsRequest()
    fill(request, model=model)
    return operation(
        f"{_SERVICE}ListCheckpoints",
        request,
        service_pb.ListCheckpointsResponse,
        lambda response: tuple(map(_parse, response.workers)),
    )


def prune_checkpoints(model: str | None) -> Operation[PrunedCheckpoints]:
    """Asks to give up what nobody needs of that."""
    request = service_pb.PruneCheckpointsRequest()
    fill(request, model=model)
    return operation(
        f"{_SERVICE}PruneCheckpoints",
        request,
        service_pb.PruneCheckpointsResponse,
        lambda response: PrunedCheckpoints(
            response.dropped_request_count, response.dropped_page_count, response.worker_count
        ),
    )


def _parse(worker: pb.WorkerCheckpoints) -> Checkpoints:
    return Checkpoints(
        model=worker.model,
        replica=worker.replica_index,
        journal=_JOURNAL_STATES.get(worker.journal_state),
        journal_bytes=worker.journal_bytes,
        num_journal_failures=worker.journal_failures_total,
        num_requests_left_out=worker.requests_left_out_total,
        num_pages=worker.page_count,
        page_bytes=worker.page_bytes,
        num_pages_pending=worker.pages_pending,
        num_requests=worker.request_count,
        requests=tuple(map(_parse_request, worker.requests)),
    )


def _parse_request(request: pb.RequestCheckpoint) -> RequestCheckpoint:
    return RequestCheckpoint(
        request_id=request.request_id,
        tenant=request.tenant,
        principal=request.principal,
        state=_REQUEST_STATES.get(request.state),
        output_tokens=request.output_tokens,
        begin_time=time_of(request, "begin_time"),
    )
