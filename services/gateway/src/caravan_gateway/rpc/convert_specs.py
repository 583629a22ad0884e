"""From the wire to what the gateway judges of a request; its texts stay behind."""

import dataclasses
from typing import Any

from google.protobuf.message import Message

from caravan.inference.v1 import embedding_pb2 as embedding_pb
from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan.inference.v1 import tokenization_pb2 as tokenization_pb
from caravan_gateway.domain.generation import Dry, GenerationSpec, Mirostat, Sampling, Xtc
from caravan_gateway.domain.inference_spec import (
    ChatInput,
    DetokenizeSpec,
    EmbedSpec,
    InferenceSpec,
    TextInput,
    TokenInput,
    TokenizeSpec,
)

InferenceRequest = (
    generation_pb.GenerateRequest
    | tokenization_pb.TokenizeRequest
    | tokenization_pb.DetokenizeRequest
    | embedding_pb.EmbedRequest
)
_KNOWN_ROLES = frozenset(generation_pb.ChatRole.values()) - {generation_pb.CHAT_ROLE_UNSPECIFIED}
_SAMPLING_FIELDS = (
    *("temperature", "top_k", "top_p", "min_p"),
    *("repeat_penalty", "frequency_penalty", "presence_penalty", "penalty_last_n"),
    "typical_p",
)


def spec_from(request: InferenceRequest) -> InferenceSpec:
    """What of a request the gateway judges."""
    match request:
        case generation_pb.GenerateRequest():
            return _generation_from(request)
        case tokenization_pb.TokenizeRequest():
            return _tokenize_from(request)
        case tokenization_pb.DetokenizeRequest():
            return DetokenizeSpec(model=request.model, id_count=len(request.ids))
        case embedding_pb.EmbedRequest():
            return _embed_from(request)


def _generation_from(request: generation_pb.GenerateRequest) -> GenerationSpec:
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
        session_id_size=(
            len(request.session_id.encode()) if request.HasField("session_id") else None
        ),
    )


def _tokenize_from(request: tokenization_pb.TokenizeRequest) -> TokenizeSpec:
    given: TextInput | ChatInput | None = None
    match request.WhichOneof("input"):
        case "text":
            given = TextInput(len(request.text))
        case "chat":
            given = _chat_from(request.chat)
    return TokenizeSpec(model=request.model, input=given)


def _embed_from(request: embedding_pb.EmbedRequest) -> EmbedSpec:
    return EmbedSpec(
        model=request.model,
        inputs=tuple(_embed_input_from(each) for each in request.inputs),
        priority=request.priority if request.HasField("priority") else None,
        labels=dict(request.labels),
    )


def _embed_input_from(given: embedding_pb.EmbedInput) -> TextInput | TokenInput | None:
    match given.WhichOneof("input"):
        case "text":
            return TextInput(len(given.text))
        case "token_ids":
            return TokenInput(len(given.token_ids.ids))
        case _:
            return None


def _input_from(
    request: generation_pb.GenerateRequest,
) -> TextInput | TokenInput | ChatInput | None:
    match request.WhichOneof("input"):
        case "text":
            return TextInput(len(request.text))
        case "token_ids":
            return TokenInput(len(request.token_ids.ids))
        case "chat":
            return _chat_from(request.chat)
        case _:
            return None


def _chat_from(chat: generation_pb.Chat) -> ChatInput:
    return ChatInput(tuple(message.role in _KNOWN_ROLES for message in chat.messages))


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
