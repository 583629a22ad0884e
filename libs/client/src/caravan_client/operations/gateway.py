"""The calls of `caravan.gateway.v1.GatewayAdminService`."""

from caravan.gateway.v1 import gateway_admin_service_pb2 as service_pb
from caravan_client.operations.models import parse_model
from caravan_client.operations.operation import Operation, operation
from caravan_client.operations.timestamps import time_of
from caravan_client.resources import Dependency, GatewayStatus

_SERVICE = "/caravan.gateway.v1.GatewayAdminService/"


def get_status() -> Operation[GatewayStatus]:
    """Asks how the deployment is."""
    return operation(
        f"{_SERVICE}GetGatewayStatus",
        service_pb.GetGatewayStatusRequest(),
        service_pb.GetGatewayStatusResponse,
        _parse_status,
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
