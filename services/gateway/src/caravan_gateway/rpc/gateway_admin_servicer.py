"""Serves `caravan.gateway.v1.GatewayAdminService`."""

from collections.abc import Awaitable, Callable, Sequence

from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.model.v1 import model_pb2 as model_pb
from caravan_gateway.rpc.convert import AUTHORIZATION_KEY, status_to
from caravan_gateway.runtime.access import AccessGate
from caravan_gateway.runtime.gateway_status import GatewayStatus
from caravan_rpckit.call import Call


class GatewayAdminServicer:
    """Tells how the gateway is."""

    def __init__(
        self,
        gate: AccessGate,
        look: Callable[[], Awaitable[GatewayStatus]],
        models: Callable[[], Sequence[model_pb.Model]],
    ) -> None:
        self._gate = gate
        self._look = look
        self._models = models

    async def GetGatewayStatus(
        self, request: gateway_pb.GetGatewayStatusRequest, call: Call
    ) -> gateway_pb.GetGatewayStatusResponse:
        """The status at this moment."""
        credential = call.metadata.get(AUTHORIZATION_KEY)
        async with self._gate.passed(call.method, credential, call.end):
            return status_to(await self._look(), self._models())
