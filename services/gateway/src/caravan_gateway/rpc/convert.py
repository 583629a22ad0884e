"""Between the wire and the domain, for what clients ask of the gateway."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan.model.v1 import model_pb2 as model_pb
from caravan_gateway.domain.generation import (
    ChatInput,
    Dry,
    GenerationSpec,
    Mirostat,
    Sampling,
    TextInput,
    TokenInput,
    Xtc,
)
from caravan_gateway.domain.inference_call import InferenceCall
from caravan_gateway.runtime.gateway_status import GatewayStatus
from caravan_rpckit.call import Call

AUTHORIZATION_KEY = "authorization"
_KNOWN_ROLES = frozenset(generation_pb.ChatRole.values()) - {generation_pb.CHAT_ROLE_UNSPECIFIED}
_SAMPLING_FIELDS = (
    *("temperature", "top_k", "top_p", "min_p"),
    *("repeat_penalty", "frequency_penalty", "presence_penalty", "penalty_last_n"),
    "typical_p",
)


def inference_call_from(
    request: generation_pb.GenerateRequest,
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
        spec=generation_spec_from(request),
        request=request,
        time_left=call.time_remaining,
        end=call.end,
        start_s=clock(),
        start_time_s=wall_clock(),
    )


def generation_spec_from(request: generation_pb.GenerateRequest) -> GenerationSpec:
    """What of a request the gateway judges; its texts stay behind."""
    return GenerationSpec(
        model=request.model,
        input=_input_from(request),
        sampling=_sampling_from(request.sampling),
        stop_sizes=tuple(len(stop.encode()) for stop in request.stop),
        max_output_tokens=(
            request.max_output_tokens if request.HasField("max_output_tokens") else None
        ),
        seed=request.seed if request.HasField("seed") else None,
        priority=request.priority if request.HasField("priority") else None,
        labels=dict(request.labels),
        choice_count=request.choice_count if request.HasField("choice_count") else None,
        logprob_top_count=request.logprobs.top_count if request.HasField("logprobs") else None,
    )


def _input_from(
    request: generation_pb.GenerateRequest,
) -> TextInput | TokenInput | ChatInput | None:
    match request.WhichOneof("input"):
        case "text":
            return TextInput(len(request.text))
        case "token_ids":
            return TokenInput(len(request.token_ids.ids))
        case "chat":
            roles = (message.role for message in request.chat.messages)
            return ChatInput(tuple(role in _KNOWN_ROLES for role in roles))
        case _:
            return None


def _sampling_from(sampling: generation_pb.SamplingOptions) -> Sampling:
    present = {
        field.name: value
        for field, value in sampling.ListFields()
        if field.name in _SAMPLING_FIELDS
    }
    return Sampling(
        **present,
        logit_bias=dict(sampling.logit_bias),
        dry=_dry_from(sampling.dry) if sampling.HasField("dry") else None,
        xtc=_xtc_from(sampling.xtc) if sampling.HasField("xtc") else None,
        mirostat=_mirostat_from(sampling.mirostat) if sampling.HasField("mirostat") else None,
    )


def _dry_from(dry: generation_pb.DryOptions) -> Dry:
    breaker_sizes = tuple(len(text.encode()) for text in dry.sequence_breakers)
    return Dry(**_present(dry, Dry), breaker_sizes=breaker_sizes)


def _xtc_from(xtc: generation_pb.XtcOptions) -> Xtc:
    return Xtc(**_present(xtc, Xtc))


def _mirostat_from(mirostat: generation_pb.MirostatOptions) -> Mirostat:
    return Mirostat(**_present(mirostat, Mirostat))


def _present(options: Message, kind: type[Dry | Xtc | Mirostat]) -> dict[str, Any]:
    """The fields that are set and that `kind` has by the same name."""
    wanted = {field.name for field in dataclasses.fields(kind)}
    return {field.name: value for field, value in options.ListFields() if field.name in wanted}


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
