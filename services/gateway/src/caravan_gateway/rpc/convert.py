"""Between the wire and the domain, for what clients ask of the gateway."""

from collections.abc import Callable, Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.gateway.v1 import stream_service_pb2 as stream_pb
from caravan.model.v1 import model_pb2 as model_pb
from caravan_gateway.domain.inference_call import InferenceCall
from caravan_gateway.domain.resumption import ReceivedChoice, ResumeSpec
from caravan_gateway.rpc.convert_specs import InferenceRequest, spec_from
from caravan_gateway.runtime.gateway_status import GatewayStatus
from caravan_rpckit.call import Call

AUTHORIZATION_KEY = "authorization"
# Says that the client will come back for its stream if the connection breaks.
RESUMABLE_KEY = "x-caravan-resumable"
_STREAMING = "/StreamGenerate"


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
        is_resumable=call.method.endswith(_STREAMING) and call.metadata.get(RESUMABLE_KEY) == "1",
    )


def resuming_call_from(
    request: stream_pb.ResumeGenerateRequest,
    call: Call,
    *,
    clock: Callable[[], float],
    wall_clock: Callable[[], float],
) -> InferenceCall:
    """A call that asks for a stream; it goes by the name of the call that began that."""
    choices = tuple(ReceivedChoice(each.output_tokens, each.finished) for each in request.choices)
    return InferenceCall(
        method=call.method,
        request_id=request.request_id,
        authorization=call.metadata.get(AUTHORIZATION_KEY),
        spec=ResumeSpec(model=request.model, request_id=request.request_id, choices=choices),
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
