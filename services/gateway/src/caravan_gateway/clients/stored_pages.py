"""What operators order about the pages that workers store, told to each of the workers."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan_gateway.clients.worker_channels import WorkerChannels
from caravan_gateway.domain.errors import InvalidFieldsError
from caravan_gateway.domain.models import Endpoint, ModelCatalog
from caravan_gateway.runtime.forwarded_call import ForwardedCall
from caravan_rpckit.errors import FieldViolation

MAX_TENANT_BYTES = 255

_log = logging.getLogger(__name__)

T = TypeVar("T")


class StoredPages:
    """Passes orders on to the workers. Owned by the event loop."""

    def __init__(self, catalog: ModelCatalog, workers: WorkerChannels) -> None:
        self._catalog = catalog
        self._workers = workers

    async def drop(
        self, request: gateway_pb.DropPagesRequest, order: ForwardedCall
    ) -> gateway_pb.DropPagesResponse:
        """Has all workers forget a tenant's pages.

        Raises:
            GatewayError: not all workers can be asked.
            AioRpcError: what one of them refused with; the others have done it.
        """
        if not 1 <= len(request.tenant.encode()) <= MAX_TENANT_BYTES:
            bounds = f"must have 1 to {MAX_TENANT_BYTES} bytes"
            raise InvalidFieldsError((FieldViolation("tenant", bounds),))
        endpoints = endpoints_of(
            self._catalog, request.model if request.HasField("model") else None
        )
        counts = await all_done(
            [self._workers.drop_pages(each, request.tenant, order) for each in endpoints]
        )
        dropped = {"dropped_tenant": request.tenant, "page_count": sum(counts)}
        _log.info("a tenant's pages dropped", extra=extra_of(order, endpoints) | dropped)
        return gateway_pb.DropPagesResponse(
            dropped_page_count=sum(counts), worker_count=len(endpoints)
        )

    async def set_budgets(
        self, request: gateway_pb.SetPageBudgetsRequest, order: ForwardedCall
    ) -> gateway_pb.SetPageBudgetsResponse:
        """Changes how much each worker of a model stores.

        Raises:
            GatewayError: not all workers can be asked.
            AioRpcError: what one of them refused with; the others have done it.
        """
        endpoints = endpoints_of(self._catalog, request.model)
        asked = worker_pb.SetPageBudgetsRequest(
            model=self._catalog.find(request.model),
            host_bytes=request.host_bytes if request.HasField("host_bytes") else None,
            disk_bytes=request.disk_bytes if request.HasField("disk_bytes") else None,
        )
        await all_done([self._workers.set_page_budgets(each, asked, order) for each in endpoints])
        _log.info("budgets of pages changed", extra=extra_of(order, endpoints))
        return gateway_pb.SetPageBudgetsResponse(worker_count=len(endpoints))


def endpoints_of(catalog: ModelCatalog, model: str | None) -> list[Endpoint]:
    """Returns all workers of a model, or of all that are loaded.

    Raises:
        GatewayError: the model isn't known, or a worker is about to come back.
    """
    names = catalog.loaded() if model is None else (catalog.find(model),)
    return [each for name in names for each in catalog.all_endpoints_of(name)]


async def all_done(orders: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Lets all end; raises the first failure if there is one."""
    results = await asyncio.gather(*orders, return_exceptions=True)
    done: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        done.append(result)
    return done


def extra_of(order: ForwardedCall, endpoints: Sequence[Endpoint]) -> dict[str, object]:
    """Who ordered, and whom."""
    return {
        "request_id": order.request_id,
        "tenant": order.identity.tenant,
        "principal": order.identity.principal,
        "models": sorted({each.model for each in endpoints}),
        "worker_count": len(endpoints),
    }
