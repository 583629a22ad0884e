"""Between the wire and the domain, for what clients ask of the gateway."""

from collections.abc import Callable, Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.model.v1 import model_pb2 as model_pb
from caravan_gateway.domain.inference_call import InferenceCall
from caravan_gateway.rpc.convert_specs import InferenceRequest, spec_from
from caravan_gateway.runtime.gateway_status import GatewayStatus
from caravan_rpckit.call import Call

AUTHORIZATION_KEY = "authorization"


def inference_call_from(
    request: InferenceRequest,
    call: Call,
    *,
    clock: Callable[[], float],
    wall_clock: Callable[[], float],
) -> InferenceCall:
    """A call at its beginning. Only the metadata that is read here has any effect."""
    return InferenceCall(
        method=call.method,
        request_id=call.request_id,
        authorization=call.metadata.get(AUTHORIZATION_KEY),
        spec=spec_from(request),
        request=request,
        time_left=call.time_remaining,
        end=call.end,
        start_s=clock(),
        start_time_s=wall_clock(),
    )


def status_to(
    status: GatewayStatus, models: Sequence[model_pb.Model]
) -> gateway_pb.GetGatewayStatusResponse:
    """The status as clients get it."""
    start_time = Timestamp()
    start_time.FromNanoseconds(round(status.start_time_s * 1e9))
    return gateway_pb.GetGatewayStatusResponse(
        version=status.version,
        start_time=start_time,
        serving=status.serving,
        dependencies=[
            gateway_pb.DependencyStatus(
                service=dependency.service,
                address=dependency.address,
                reachable=dependency.reachable,
                detail=dependency.detail,
            )
            for dependency in status.dependencies
        ],
        models=models,
        active_call_count=status.active_call_count,
        spooled_record_count=status.spooled_record_count,
    )
