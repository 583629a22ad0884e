"""The calls of `caravan.inference.v1.InferenceService`."""

from collections.abc import Iterable, Sequence
from dataclasses import fields

from google.protobuf.message import Message as ProtoMessage

from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan_client.generation import (
    Choice,
    Completed,
    Delta,
    Event,
    Finished,
    FinishReason,
    GenerateOptions,
    Generation,
    Message,
    Role,
    SamplerOptions,
    Sampling,
    Started,
    TokenLogprob,
    TokenLogprobs,
    Usage,
)
from caravan_client.keywords import check_keywords
from caravan_client.operations.operation import Operation, fill, operation

_SERVICE = "/caravan.inference.v1.InferenceService/"

_ROLES = {
    Role.SYSTEM: generation_pb.CHAT_ROLE_SYSTEM,
    Role.USER: generation_pb.CHAT_ROLE_USER,
    Role.ASSISTANT: generation_pb.CHAT_ROLE_ASSISTANT,
    Role.TOOL: generation_pb.CHAT_ROLE_TOOL,
}
_FINISH_REASONS = {
    generation_pb.FINISH_REASON_END_OF_TEXT: FinishReason.END_OF_TEXT,
    generation_pb.FINISH_REASON_STOP_STRING: FinishReason.STOP_STRING,
    generation_pb.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    generation_pb.FINISH_REASON_CONTENT_FILTER: FinishReason.CONTENT_FILTER,
}


def text_request(
    prompt: str | Sequence[int], options: GenerateOptions
) -> generation_pb.GenerateRequest:
    """A request to continue a text or a sequence of token ids."""
    request = _request(options)
    if isinstance(prompt, str):
        fill(request, text=prompt)
    else:
        request.token_ids.SetInParent()  # no tokens at all are still an input, which is refused
        fill(request.token_ids, "token_ids.", ids=list(prompt))
    return request


def chat_request(
    messages: str | Sequence[Message], options: GenerateOptions
) -> generation_pb.GenerateRequest:
    """A request to answer a chat; a plain string is a chat of one user message."""
    request = _request(options)
    fill_chat(request.chat, [Message.user(messages)] if isinstance(messages, str) else messages)
    return request


def fill_chat(chat: generation_pb.Chat, turns: Sequence[Message]) -> None:
    """Writes turns into the field `chat` of a request."""
    chat.SetInParent()  # no turns at all are still an input, which is refused
    for index, turn in enumerate(turns):
        path = f"chat.messages[{index}]."
        role = _ROLES.get(turn.role, turn.role)
        fill(chat.messages.add(), path, role=role, content=turn.content)


def generate(request: generation_pb.GenerateRequest) -> Operation[Generation]:
    """Asks for the whole answer."""
    return operation(
        f"{_SERVICE}Generate",
        request,
        generation_pb.GenerateResponse,
        _parse_generation,
        title=_title(request),
    )


def stream_generate(request: generation_pb.GenerateRequest) -> Operation[Event | None]:
    """Asks for events; one that is newer than this client is read as None."""
    return operation(
        f"{_SERVICE}StreamGenerate",
        request,
        generation_pb.GenerateEvent,
        parse_event,
        title=_title(request),
    )


def _title(request: generation_pb.GenerateRequest) -> str:
    kind = "chat" if request.WhichOneof("input") == "chat" else "text_completion"
    return f"{kind} {request.model[:100]}"


def _request(options: GenerateOptions) -> generation_pb.GenerateRequest:
    check_keywords(options, GenerateOptions)
    request = generation_pb.GenerateRequest()
    stop = options.get("stop")
    fill(
        request,
        model=options["model"],
        stop=[stop] if isinstance(stop, str) else None if stop is None else list(stop),
        max_output_tokens=options.get("max_output_tokens"),
        seed=options.get("seed"),
        ignore_eos=options.get("ignore_eos"),
        priority=options.get("priority"),
        labels=options.get("labels"),
        choice_count=options.get("num_choices"),
        session_id=options.get("session_id"),
    )
    if (top_count := options.get("logprobs")) is not None:
        request.logprobs.SetInParent()
        fill(request.logprobs, "logprobs.", top_count=top_count)
    sampling = options.get("sampling")
    if sampling is not None:
        _fill_from(request.sampling, "sampling.", sampling)
    return request


def _fill_from(message: ProtoMessage, path: str, options: Sampling | SamplerOptions) -> None:
    """Writes a value of options, and those inside it, into the fields of the same names."""
    for entry in fields(options):
        value = getattr(options, entry.name)
        if isinstance(value, SamplerOptions):
            inner = getattr(message, entry.name)
            inner.SetInParent()
            _fill_from(inner, f"{path}{entry.name}.", value)
        else:
            fill(message, path, **{entry.name: value})


def _parse_generation(response: generation_pb.GenerateResponse) -> Generation:
    return Generation(
        request_id=response.request_id,
        model=response.model,
        model_digest=response.model_digest,
        seed=response.seed,
        choices=tuple(_parse_choice(choice) for choice in response.choices),
        usage=parse_usage(response.usage),
    )


def _parse_choice(choice: generation_pb.Choice) -> Choice:
    return Choice(
        index=choice.index,
        text=choice.text,
        token_ids=tuple(choice.token_ids),
        finish_reason=_FINISH_REASONS.get(choice.finish_reason, FinishReason.UNKNOWN),
        stop_string=choice.stop_string if choice.HasField("stop_string") else None,
        logprobs=_parse_logprobs(choice.logprobs),
    )


def parse_usage(usage: generation_pb.Usage) -> Usage:
    """Reads what a call used, wherever it stands in an answer."""
    return Usage(usage.input_tokens, usage.cached_tokens, usage.output_tokens)


def parse_event(event: generation_pb.GenerateEvent) -> Event | None:
    """Reads an event of a stream; None if it is newer than this client."""
    match event.WhichOneof("event"):
        case "started":
            return _parse_started(event.started)
        case "delta":
            delta = event.delta
            return Delta(
                delta.choice_index,
                delta.text,
                tuple(delta.token_ids),
                delta.token_offset,
                _parse_logprobs(delta.logprobs),
            )
        case "finished":
            return _parse_finished(event.finished)
        case "completed":
            return Completed(parse_usage(event.completed.usage))
        case _:
            return None


def _parse_logprobs(
    logprobs: Iterable[generation_pb.TokenLogprobs],
) -> tuple[TokenLogprobs, ...]:
    return tuple(
        TokenLogprobs(
            one.logprob,
            tuple(TokenLogprob(top.token_id, top.text, top.logprob) for top in one.top),
        )
        for one in logprobs
    )


def _parse_started(started: generation_pb.Started) -> Started:
    return Started(
        request_id=started.request_id,
        model=started.model,
        model_digest=started.model_digest,
        seed=started.seed,
        input_tokens=started.input_tokens,
        cached_tokens=started.cached_tokens,
    )


def _parse_finished(finished: generation_pb.Finished) -> Finished:
    return Finished(
        choice_index=finished.choice_index,
        finish_reason=_FINISH_REASONS.get(finished.finish_reason, FinishReason.UNKNOWN),
        output_tokens=finished.output_tokens,
        stop_string=finished.stop_string if finished.HasField("stop_string") else None,
    )
