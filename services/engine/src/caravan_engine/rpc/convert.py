"""Generation requests and their events: between protos and the engine's domain."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from google.protobuf.message import Message as ProtoMessage

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.inference.v1 import embedding_pb2 as embedding_pb
from caravan.inference.v1 import generation_pb2 as pb
from caravan.inference.v1 import tokenization_pb2 as tokenization_pb
from caravan_engine.domain.errors import InvalidFieldError
from caravan_engine.domain.events import (
    Completed,
    Delta,
    Event,
    Finished,
    FinishReason,
    Started,
    Timings,
    TokenLogprobs,
)
from caravan_engine.domain.model_facts import Pooling
from caravan_engine.domain.request import (
    DEFAULT_MAX_OUTPUT_TOKENS,
    DEFAULT_PRIORITY,
    ClientKey,
    Continuation,
    EmbeddingRequest,
    Emitted,
    GenerationRequest,
)
from caravan_engine.domain.sampling.options import (
    DryOptions,
    MirostatOptions,
    SamplingOptions,
    XtcOptions,
)
from caravan_engine.prompts.masking import Message
from caravan_engine.runtime.embeddings import EmbeddedInput
from caravan_rpckit.errors import FieldViolation

MAX_DETOKENIZED = 1 << 20
MAX_EMBEDDED_INPUTS = 256

_ROLES = {
    pb.CHAT_ROLE_SYSTEM: "system",
    pb.CHAT_ROLE_USER: "user",
    pb.CHAT_ROLE_ASSISTANT: "assistant",
    pb.CHAT_ROLE_TOOL: "tool",
}
_POOLINGS = {
    Pooling.MEAN: embedding_pb.POOLING_MEAN,
    Pooling.CLS: embedding_pb.POOLING_CLS,
    Pooling.LAST: embedding_pb.POOLING_LAST,
}
_NESTED_SAMPLING: dict[Literal["dry", "xtc", "mirostat"], Callable[..., object]] = {
    "dry": DryOptions,
    "xtc": XtcOptions,
    "mirostat": MirostatOptions,
}
_FINISH_REASONS = {
    FinishReason.END_OF_TEXT: pb.FINISH_REASON_END_OF_TEXT,
    FinishReason.STOP_STRING: pb.FINISH_REASON_STOP_STRING,
    FinishReason.LENGTH: pb.FINISH_REASON_LENGTH,
}


@dataclass(frozen=True, slots=True)
class Identity:
    """What every answer of a worker says of itself, and of the request."""

    model: str
    model_digest: str
    request_id: str
    seed: int


def messages_of(chat: pb.Chat) -> list[Message]:
    """Converts a conversation.

    Raises:
        InvalidFieldError: a message has no known role.
    """
    violations = [
        FieldViolation(f"chat.messages[{index}].role", "must be one of the roles")
        for index, message in enumerate(chat.messages)
        if message.role not in _ROLES
    ]
    if violations:
        raise InvalidFieldError(*violations)
    return [Message(_ROLES[each.role], each.content) for each in chat.messages]


def embeddings_of(
    embed: worker_pb.EmbedRequest,
    prompts: Sequence[tuple[int, ...]],
    *,
    pooling: Pooling,
    request_id: str,
    deadline: float | None,
) -> list[EmbeddingRequest]:
    """Converts a request whose inputs are tokenized.

    Raises:
        InvalidFieldError: fields are out of bounds.
        EmptyInputError: an input is empty.
    """
    return [
        EmbeddingRequest(
            request_id=request_id,
            prompt=prompt,
            priority=_priority_of(embed),
            deadline=deadline,
            client=_client_of(embed),
            pooling=pooling,
        )
        for prompt in prompts
    ]


def check_input_count(request: embedding_pb.EmbedRequest) -> None:
    """Refuses no inputs and too many.

    Raises:
        InvalidFieldError: naming the field.
    """
    if not 1 <= len(request.inputs) <= MAX_EMBEDDED_INPUTS:
        description = f"1 to {MAX_EMBEDDED_INPUTS} inputs"
        raise InvalidFieldError(FieldViolation("inputs", description))


def to_embed_response(
    inputs: Sequence[EmbeddedInput], identity: Identity, pooling: Pooling
) -> worker_pb.EmbedResponse:
    """Converts vectors; `inputs` has at least one."""
    response = embedding_pb.EmbedResponse(
        request_id=identity.request_id,
        model=identity.model,
        model_digest=identity.model_digest,
        embeddings=[
            embedding_pb.Embedding(values=each.vector.tolist(), input_tokens=each.input_tokens)
            for each in inputs
        ],
        pooling=_POOLINGS[pooling],
        usage=pb.Usage(input_tokens=sum(each.input_tokens for each in inputs)),
    )
    timings = max((each.timings for each in inputs), key=lambda each: each.queue_s + each.prefill_s)
    return worker_pb.EmbedResponse(response=response, timings=_to_timings(timings))


def detokenizable_of(request: tokenization_pb.DetokenizeRequest) -> Sequence[int]:
    """Returns the tokens to write out.

    Raises:
        InvalidFieldError: there are too many.
    """
    if len(request.ids) > MAX_DETOKENIZED:
        raise InvalidFieldError(FieldViolation("ids", f"at most {MAX_DETOKENIZED} tokens"))
    return request.ids


def sampling_of(options: pb.SamplingOptions) -> SamplingOptions:
    """Converts sampling options; what is unset keeps its default.

    Raises:
        InvalidFieldError: fields are out of bounds.
    """
    given = _given(options)
    given["logit_bias"] = dict(options.logit_bias)
    for name, kind in _NESTED_SAMPLING.items():
        if options.HasField(name):
            given[name] = kind(**_given(getattr(options, name)))
    return SamplingOptions(**given)


def _given(message: ProtoMessage) -> dict[str, Any]:
    return {
        field.name: tuple(value) if field.name == "sequence_breakers" else value
        for field, value in message.ListFields()
    }


def seed_of(request: pb.GenerateRequest) -> int:
    """The seed that the gateway filled in, or a drawn one."""
    return request.seed if request.HasField("seed") else secrets.randbits(64)


def generation_of(
    run: worker_pb.RunRequest,
    *,
    prompt: tuple[int, ...],
    seed: int,
    request_id: str,
    deadline: float | None,
) -> GenerationRequest:
    """Converts a request whose input is tokenized.

    Raises:
        InvalidFieldError: fields are out of bounds.
        EmptyInputError: `prompt` is empty.
    """
    request = run.request
    return GenerationRequest(
        request_id=request_id,
        prompt=prompt,
        sampling=sampling_of(request.sampling),
        seed=seed,
        stop=tuple(request.stop),
        max_output_tokens=(
            request.max_output_tokens
            if request.HasField("max_output_tokens")
            else DEFAULT_MAX_OUTPUT_TOKENS
        ),
        ignore_eos=request.ignore_eos,
        num_top_logprobs=request.logprobs.top_count if request.HasField("logprobs") else None,
        choice_count=request.choice_count if request.HasField("choice_count") else 1,
        priority=_priority_of(run),
        deadline=deadline,
        continuation=_continuation_of(run),
        is_of_session=request.HasField("session_id"),
        client=_client_of(run),
    )


def to_response(event: Event, identity: Identity) -> worker_pb.RunResponse:
    """Converts an event."""
    match event:
        case Delta():
            return worker_pb.RunResponse(
                event=pb.GenerateEvent(delta=_to_delta(event)), mirostat_mu=event.mirostat_mu
            )
        case Started():
            return worker_pb.RunResponse(
                event=pb.GenerateEvent(started=_to_started(event, identity))
            )
        case Finished():
            return worker_pb.RunResponse(event=pb.GenerateEvent(finished=to_finished(event)))
        case Completed():
            return worker_pb.RunResponse(
                event=pb.GenerateEvent(completed=pb.Completed(usage=_to_usage(event))),
                timings=_to_timings(event.timings),
            )


def _priority_of(run: worker_pb.RunRequest | worker_pb.EmbedRequest) -> int:
    if run.HasField("caller"):
        return run.caller.priority
    return run.request.priority if run.request.HasField("priority") else DEFAULT_PRIORITY


def _continuation_of(run: worker_pb.RunRequest) -> Continuation | None:
    if not run.HasField("continuation"):
        return None
    return Continuation(
        tuple(
            Emitted(
                tokens=tuple(each.token_ids),
                is_finished=each.finished,
                mirostat_mu=each.mirostat_mu if each.HasField("mirostat_mu") else None,
            )
            for each in run.continuation.choices
        ),
        run.continuation.cached_tokens,
    )


def to_continuation(continuation: Continuation, model_digest: str) -> worker_pb.Continuation:
    """Converts what a client has of a request."""
    return worker_pb.Continuation(
        choices=[
            worker_pb.ChoiceContinuation(
                token_ids=each.tokens, finished=each.is_finished, mirostat_mu=each.mirostat_mu
            )
            for each in continuation.choices
        ],
        model_digest=model_digest,
        cached_tokens=continuation.cached_tokens,
    )


def _client_of(run: worker_pb.RunRequest | worker_pb.EmbedRequest) -> ClientKey:
    if run.HasField("caller"):
        return ClientKey(run.caller.tenant, run.caller.principal)
    return ClientKey()


def _to_started(event: Started, identity: Identity) -> pb.Started:
    return pb.Started(
        request_id=identity.request_id,
        model=identity.model,
        model_digest=identity.model_digest,
        seed=identity.seed,
        input_tokens=event.input_tokens,
        cached_tokens=event.cached_tokens,
    )


def _to_delta(event: Delta) -> pb.Delta:
    return pb.Delta(
        choice_index=event.choice_index,
        text=event.text,
        token_ids=event.token_ids,
        token_offset=event.token_offset,
        logprobs=map(_to_logprobs, event.logprobs),
    )


def _to_logprobs(logprobs: TokenLogprobs) -> pb.TokenLogprobs:
    return pb.TokenLogprobs(
        logprob=logprobs.logprob,
        top=[
            pb.TokenLogprob(token_id=each.token_id, text=each.text, logprob=each.logprob)
            for each in logprobs.top
        ],
    )


def to_finished(event: Finished) -> pb.Finished:
    """Converts the end of a choice."""
    return pb.Finished(
        choice_index=event.choice_index,
        finish_reason=_FINISH_REASONS[event.reason],
        stop_string=event.stop_string,
        output_tokens=event.output_tokens,
    )


def _to_usage(event: Completed) -> pb.Usage:
    return pb.Usage(
        input_tokens=event.input_tokens,
        cached_tokens=event.cached_tokens,
        output_tokens=event.output_tokens,
    )


def _to_timings(timings: Timings) -> worker_pb.RunTimings:
    return worker_pb.RunTimings(
        queue_ms=timings.queue_s * 1000,
        prefill_ms=timings.prefill_s * 1000,
        decode_ms=timings.decode_s * 1000,
    )
