"""Serves `caravan.telemetry.v1.TraceQueryService` by passing it on to telemetry."""

from caravan.telemetry.v1 import trace_query_service_pb2 as query_pb
from caravan_gateway.rpc.forwarding import UnaryForwarder, pass_on
from caravan_gateway.runtime.access import AccessGate
from caravan_rpckit.call import Call


class TraceQueryServicer:
    """Lets through who may; telemetry answers."""

    def __init__(self, gate: AccessGate, telemetry: UnaryForwarder) -> None:
        self._gate = gate
        self._telemetry = telemetry

    async def GetTrace(self, request: query_pb.GetTraceRequest, call: Call) -> bytes:
        """Passes on."""
        return await pass_on(self._gate, self._telemetry, request, call)
