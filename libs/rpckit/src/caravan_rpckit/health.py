"""`grpc.health.v1.Health` with Check, List and Watch.

The empty name stands for liveness: it is SERVING as long as the process answers. A full service
name stands for readiness. Written here because the published servicer lacks List.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

from grpc_health.v1 import health_pb2

from caravan_rpckit.call import Call
from caravan_rpckit.errors import CaravanError, Reason


class UnknownServiceError(CaravanError):
    """Health was asked about a service that is not served here."""

    reason: ClassVar[Reason] = Reason.RESOURCE_NOT_FOUND


class HealthServicer:
    """Readiness by service name. Owned by the event loop."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {"": health_pb2.HealthCheckResponse.SERVING}
        self._changed = asyncio.Event()

    def set_serving(self, service: str, serving: bool) -> None:
        """Sets the readiness of `service` and wakes whoever watches."""
        status = (
            health_pb2.HealthCheckResponse.SERVING
            if serving
            else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        if self._statuses.get(service) == status:
            return
        self._statuses[service] = status
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Check(  # noqa: N802 (the contract's name)
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> health_pb2.HealthCheckResponse:
        """The status of one service; NOT_FOUND for one that is not served."""
        status = self._statuses.get(request.service)
        if status is None:
            raise UnknownServiceError("No such service is served here.")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(  # noqa: N802
        self, request: health_pb2.HealthListRequest, call: Call
    ) -> health_pb2.HealthListResponse:
        """The status of every service."""
        return health_pb2.HealthListResponse(
            statuses={
                name: health_pb2.HealthCheckResponse(status=status)
                for name, status in self._statuses.items()
            }
        )

    async def Watch(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """The status at once, and again after each change."""
        last: int | None = None
        while True:
            changed = self._changed
            status = self._statuses.get(
                request.service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            )
            if status != last:
                last = status
                yield health_pb2.HealthCheckResponse(status=status)
            await changed.wait()
