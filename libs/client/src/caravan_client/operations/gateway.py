"""The calls of `caravan.gateway.v1.GatewayAdminService`."""

from caravan.gateway.v1 import gateway_admin_service_pb2 as service_pb
from caravan_client.operations.models import parse_model
from caravan_client.operations.operation import Operation, fill, operation
from caravan_client.operations.timestamps import time_of
from caravan_client.resources import Dependency, DroppedPages, GatewayStatus

_SERVICE = "/caravan.gateway.v1.GatewayAdminService/"


def get_status() -> Operation[GatewayStatus]:
    """Asks how the deployment is."""
    return operation(
        f"{_SERVICE}GetGatewayStatus",
        service_pb.GetGatewayStatusRequest(),
        service_pb.GetGatewayStatusResponse,
        _parse_status,
    )


def drop_pages(tenant: str, model: str | None) -> Operation[DroppedPages]:
    """Asks to forget a tenant's pages."""
    request = service_pb.DropPagesRequest()
    fill(request, tenant=tenant, model=model)
    return operation(
        f"{_SERVICE}DropPages",
        request,
        service_pb.DropPagesResponse,
        lambda response: DroppedPages(response.dropped_page_count, response.worker_count),
    )


def set_page_budgets(model: str, host_bytes: int | None, disk_bytes: int | None) -> Operation[int]:
    """Asks to change how much is stored; tells how many workers were asked."""
    request = service_pb.SetPageBudgetsRequest()
    fill(request, model=model, host_bytes=host_bytes, disk_bytes=disk_bytes)
    return operation(
        f"{_SERVICE}SetPageBudgets",
        request,
        service_pb.SetPageBudgetsResponse,
        lambda response: response.worker_count,
    )


def _parse_status(response: service_pb.GetGatewayStatusResponse) -> GatewayStatus:
    return GatewayStatus(
        version=response.version,
        start_time=time_of(response, "start_time"),
        serving=response.serving,
        dependencies=tuple(
            Dependency(entry.service, entry.address, entry.reachable, entry.detail)
            for entry in response.dependencies
        ),
        models=tuple(parse_model(model) for model in response.models),
        num_active_calls=response.active_call_count,
        num_spooled_records=response.spooled_record_count,
    )
