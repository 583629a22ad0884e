"""What workers have on disk for the time after their death, told and given up by order."""

import logging

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan_gateway.clients.stored_pages import all_done, endpoints_of, extra_of
from caravan_gateway.clients.worker_channels import WorkerChannels
from caravan_gateway.domain.models import Endpoint, ModelCatalog
from caravan_gateway.runtime.forwarded_call import ForwardedCall

_log = logging.getLogger(__name__)


class WorkerCheckpoints:
    """Passes orders on to the workers. Owned by the event loop."""

    def __init__(self, catalog: ModelCatalog, workers: WorkerChannels) -> None:
        self._catalog = catalog
        self._workers = workers

    async def list_all(
        self, request: gateway_pb.ListCheckpointsRequest, order: ForwardedCall
    ) -> gateway_pb.ListCheckpointsResponse:
        """Asks all workers, or those of a model, what they have.

        Raises:
            GatewayError: not all workers can be asked.
            AioRpcError: what one of them refused with.
        """
        endpoints = self._endpoints(request)
        told = await all_done(
            [
                self._workers.get_checkpoints(
                    each, worker_pb.GetCheckpointsRequest(model=each.model), order
                )
                for each in endpoints
            ]
        )
        workers = sorted(
            (each.checkpoints for each in told), key=lambda each: (each.model, each.replica_index)
        )
        return gateway_pb.ListCheckpointsResponse(workers=workers)

    async def prune(
        self, request: gateway_pb.PruneCheckpointsRequest, order: ForwardedCall
    ) -> gateway_pb.PruneCheckpointsResponse:
        """Has all workers, or those of a model, give up what nobody needs now.

        Raises:
            GatewayError: not all workers can be asked.
            AioRpcError: what one of them refused with; the others have done it.
        """
        endpoints = self._endpoints(request)
        pruned = await all_done(
            [
                self._workers.prune_checkpoints(
                    each, worker_pb.PruneCheckpointsRequest(model=each.model), order
                )
                for each in endpoints
            ]
        )
        answer = gateway_pb.PruneCheckpointsResponse(
            dropped_request_count=sum(each.dropped_request_count for each in pruned),
            dropped_page_count=sum(each.dropped_page_count for each in pruned),
            worker_count=len(endpoints),
        )
        counts = {
            "request_count": answer.dropped_request_count,
            "page_count": answer.dropped_page_count,
        }
        _log.info("checkpoints pruned", extra=extra_of(order, endpoints) | counts)
        return answer

    def _endpoints(
        self, request: gateway_pb.ListCheckpointsRequest | gateway_pb.PruneCheckpointsRequest
    ) -> list[Endpoint]:
        return endpoints_of(self._catalog, request.model if request.HasField("model") else None)
