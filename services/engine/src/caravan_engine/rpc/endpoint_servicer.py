"""`caravan.model.v1.EndpointService` on the model manager."""

from collections.abc import AsyncIterator, Callable

from caravan.model.v1 import endpoint_service_pb2 as endpoint_pb
from caravan_engine.host.broadcast import Broadcast
from caravan_engine.host.models import Picture
from caravan_engine.rpc.convert_models import to_picture
from caravan_rpckit.call import Call


class EndpointServicer:
    """Shows gateways the picture, whole and after every change."""

    def __init__(
        self, picture: Broadcast[Picture], *, host_id: str, address_of: Callable[[int], str]
    ) -> None:
        self._picture = picture
        self._host_id = host_id
        self._address_of = address_of

    async def WatchEndpoints(
        self, _request: endpoint_pb.WatchEndpointsRequest, _call: Call
    ) -> AsyncIterator[endpoint_pb.WatchEndpointsResponse]:
        """Streams pictures until the host ends."""
        async for picture in self._picture.watch():
            yield to_picture(picture, host_id=self._host_id, address_of=self._address_of)
