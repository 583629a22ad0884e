"""What operators order about workers that are to be emptied, told to their engine hosts."""

import asyncio
import logging

from caravan.engine.v1 import host_service_pb2 as host_pb
from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan_gateway.clients.engine_hosts import ENGINE, EngineHosts
from caravan_gateway.domain.errors import DependencyUnavailableError, InvalidFieldsError
from caravan_gateway.domain.models import ModelCatalog
from caravan_gateway.runtime.forwarded_call import ForwardedCall
from caravan_rpckit.errors import FieldViolation

_log = logging.getLogger(__name__)


class WorkerDrain:
    """Finds the hosts of the workers that are meant, and passes orders on to them."""

    def __init__(self, catalog: ModelCatalog, hosts: EngineHosts) -> None:
        self._catalog = catalog
        self._hosts = hosts

    async def drain(
        self, request: gateway_pb.DrainWorkersRequest, order: ForwardedCall
    ) -> gateway_pb.DrainWorkersResponse:
        """Drains workers: host after host where they are replaced, else all at once.

        Raises:
            GatewayError: no such workers, or not all of their hosts can be asked.
            AioRpcError: what a host refused with; others may have done it.
        """
        orders = self._orders(request)
        away = [address for address in orders if not self._catalog.is_connected(address)]
        if away:
            raise DependencyUnavailableError(ENGINE)
        drains = [self._hosts.drain(host, asked, order) for host, asked in orders.items()]
        if request.restart:
            answers = [await each for each in drains]
        else:
            answers = await asyncio.gather(*drains)
        response = gateway_pb.DrainWorkersResponse(
            worker_count=sum(each.worker_count for each in answers),
            unfinished_request_count=sum(each.ended_request_count for each in answers),
        )
        self._tell(request, order, response)
        return response

    def _orders(
        self, request: gateway_pb.DrainWorkersRequest
    ) -> dict[str, host_pb.DrainWorkersRequest]:
        """Returns what each host is asked."""
        has = request.HasField
        asked = host_pb.DrainWorkersRequest(
            model=self._catalog.find(request.model) if has("model") else None,
            timeout_ms=request.timeout_ms if has("timeout_ms") else None,
            restart=request.restart,
        )
        addresses = [each.address for each in self._hosts.states()]
        if has("engine_address"):
            if request.engine_address not in addresses:
                raise _fault("engine_address", "must be the address of an engine host")
            addresses = [request.engine_address]
        elif not has("model"):
            raise _fault("model", "must be given, or engine_address")
        if not has("replica_index"):
            return dict.fromkeys(addresses, asked)
        if not has("model"):
            raise _fault("model", "must be given with replica_index")
        replicas = self._hosts.replicas_of(asked.model)
        if request.replica_index >= len(replicas):
            raise _fault("replica_index", "must be the number of a replica")
        address, asked.replica_index = replicas[request.replica_index]
        if address not in addresses:
            raise _fault("replica_index", "must be a replica of the engine host that is named")
        return {address: asked}

    def _tell(
        self,
        request: gateway_pb.DrainWorkersRequest,
        order: ForwardedCall,
        response: gateway_pb.DrainWorkersResponse,
    ) -> None:
        """Says in the log who ordered what, and what came of it."""
        _log.info(
            "workers drained",
            extra={
                "request_id": order.request_id,
                "tenant": order.identity.tenant,
                "principal": order.identity.principal,
                "model": request.model,
                "engine": request.engine_address,
                "restart": request.restart,
                "worker_count": response.worker_count,
                "unfinished_request_count": response.unfinished_request_count,
            },
        )


def _fault(field: str, description: str) -> InvalidFieldsError:
    return InvalidFieldsError((FieldViolation(field, description),))
