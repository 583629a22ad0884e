"""What the trace of an inference call says: its own span in GenAI terms, and its stages.

Says what was asked for and how much came out, and nothing of the prompt, the answer or the key.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from opentelemetry.trace import Span, StatusCode, Tracer, get_current_span, use_span

from caravan_gateway.domain.generation import GenerationSpec
from caravan_gateway.domain.inference_call import InferenceCall
from caravan_gateway.domain.inference_spec import ChatInput, EmbedSpec, InferenceSpec
from caravan_obskit import genai

_STREAMING = "/StreamGenerate"
_NAME_LENGTH = 100
_FAILOVER_COUNT = "caravan.failover.count"
_CAUSE, _EMITTED_TOKENS = "caravan.failover.cause", "caravan.failover.emitted_tokens"
# A stage that takes less is not worth a span; whatever asks another service takes longer.
_WORTH_SHOWING_NS = 100_000
# Stages that may call another service, whose span then is inside theirs.
_ASKING = frozenset({"authenticate", "authorize"})


class CallSpans:
    """Describes calls on the span that the server began for each."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def describe(self, call: InferenceCall) -> Span:
        """Says on the call's span what is asked for, and returns it."""
        span = get_current_span()
        operation = operation_of(call.spec)
        if span.is_recording() and operation is not None:
            model = call.spec.model[:_NAME_LENGTH]
            if model:
                span.update_name(genai.span_name(operation, model))
            span.set_attributes(
                {
                    genai.PROVIDER_NAME: genai.PROVIDER,
                    genai.OPERATION_NAME: operation.value,
                    genai.REQUEST_MODEL: model,
                    genai.REQUEST_STREAM: call.method.endswith(_STREAMING),
                    **_options(call.spec),
                }
            )
        return span

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Traces a stage; one that took no time leaves no trace."""
        if not get_current_span().is_recording():
            yield
            return
        started_ns = time.time_ns()
        span = self._tracer.start_span(name, start_time=started_ns) if name in _ASKING else None
        try:
            with nullcontext() if span is None else _around(span):
                yield
        finally:
            ended_ns = time.time_ns()
            if ended_ns - started_ns >= _WORTH_SHOWING_NS:  # a span that never ends is never sent
                span = span or self._tracer.start_span(name, start_time=started_ns)
                span.end(ended_ns)

    @contextmanager
    def failover(self, cause: str, num_emitted: int) -> Iterator[None]:
        """Traces the search for another worker, after `num_emitted` tokens."""
        if not get_current_span().is_recording():
            yield
            return
        span = self._tracer.start_span(
            "failover", attributes={_CAUSE: cause, _EMITTED_TOKENS: num_emitted}
        )
        try:
            with _around(span):
                yield
        except Exception:
            span.set_status(StatusCode.ERROR)
            raise
        finally:
            span.end()

    def conclude(self, span: Span, call: InferenceCall) -> None:
        """Says on the call's span what came out of it."""
        if not span.is_recording() or operation_of(call.spec) is None:
            return
        progress = call.progress
        if call.failover_count:
            span.set_attribute(_FAILOVER_COUNT, call.failover_count)
        span.set_attributes(
            {
                genai.RESPONSE_ID: call.request_id,
                genai.RESPONSE_MODEL: call.model,
                genai.USAGE_INPUT_TOKENS: progress.input_tokens,
                genai.USAGE_CACHED_TOKENS: progress.cached_tokens,
                genai.USAGE_OUTPUT_TOKENS: progress.output_tokens,
            }
        )
        if isinstance(call.spec, GenerationSpec):
            span.set_attribute(genai.REQUEST_SEED, genai.seed_value(call.seed))
            reasons = [reason for _, reason in sorted(progress.finish_reasons.items())]
            span.set_attribute(genai.RESPONSE_FINISH_REASONS, reasons)
        if progress.first_token_s is not None:
            first_s = call.start_time_s + progress.first_token_s - call.start_s
            span.add_event(genai.FIRST_TOKEN_EVENT, timestamp=round(first_s * 1e9))


def _around(span: Span) -> AbstractContextManager[Span]:
    """What is done inside of it; without a look at exceptions, which may quote a prompt."""
    return use_span(span, record_exception=False, set_status_on_exception=False)


def operation_of(spec: InferenceSpec) -> genai.Operation | None:
    """What a request asks of the model; None where GenAI has no word for it."""
    match spec:
        case GenerationSpec(input=ChatInput()):
            return genai.Operation.CHAT
        case GenerationSpec():
            return genai.Operation.TEXT_COMPLETION
        case EmbedSpec():
            return genai.Operation.EMBEDDINGS
        case _:
            return None


def _options(spec: InferenceSpec) -> dict[str, int | float]:
    if not isinstance(spec, GenerationSpec):
        return {}
    sampling = spec.sampling
    given = {
        genai.REQUEST_MAX_TOKENS: spec.max_output_tokens,
        genai.REQUEST_TEMPERATURE: sampling.temperature,
        genai.REQUEST_TOP_P: sampling.top_p,
        genai.REQUEST_TOP_K: sampling.top_k,
        genai.REQUEST_FREQUENCY_PENALTY: sampling.frequency_penalty,
        genai.REQUEST_PRESENCE_PENALTY: sampling.presence_penalty,
        genai.REQUEST_CHOICE_COUNT: spec.choice_count,
    }
    return {name: value for name, value in given.items() if value is not None}
