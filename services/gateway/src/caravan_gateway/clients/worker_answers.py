"""What workers answer at once, where they don't stream: vectors, tokens and texts."""

from typing import TYPE_CHECKING

import grpc
import grpc.aio
from google.protobuf.message import Message

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.inference.v1 import embedding_pb2 as embedding_pb
from caravan.inference.v1 import tokenization_pb2 as tokenization_pb
from caravan_gateway.clients.convert import caller_to
from caravan_gateway.clients.failures import worker_failure
from caravan_gateway.domain.errors import AnswerTooLargeError
from caravan_gateway.domain.inference_call import InferenceCall, RunEvent
from caravan_gateway.domain.inference_facts import CompletedFacts
from caravan_rpckit.call import REQUEST_ID_KEY
from caravan_rpckit.details import error_details
from caravan_rpckit.tracing import CallTracing, trace_metadata

if TYPE_CHECKING:
    from caravan.engine.v1.worker_service_pb2_grpc import WorkerServiceAsyncStub

_SERVICE = "caravan.engine.v1.WorkerService"
# Tokenizing computes nothing on the model, so it counts as a call without tokens.
_NO_TOKENS = CompletedFacts(input_tokens=0, cached_tokens=0, output_tokens=0, queue_ms=0.0)


async def answer_of(
    stub: "WorkerServiceAsyncStub", call: InferenceCall, tracing: CallTracing, *, max_bytes: int
) -> RunEvent:
    """Returns the worker's answer to a request that isn't streamed, as its only event.

    Raises:
        AnswerTooLargeError: it has more than `max_bytes`.
        WorkerDiedError: the worker is gone.
        AioRpcError: what the worker refused with.
        TypeError: workers answer no such request.
    """
    method = f"{_SERVICE}/{call.method.rpartition('/')[2]}"
    try:
        with tracing.client_span(method) as traceparent:
            answer, facts = await _ask(stub, call, traceparent)
    except grpc.aio.AioRpcError as error:
        if _is_over_transport_limit(error):
            raise AnswerTooLargeError(_field_of(call.request), max_bytes) from None
        raise worker_failure(error, call.model) from None
    if answer.ByteSize() > max_bytes:
        raise AnswerTooLargeError(_field_of(call.request), max_bytes)
    return RunEvent(answer, facts)


async def _ask(
    stub: "WorkerServiceAsyncStub", call: InferenceCall, traceparent: str
) -> tuple[Message, CompletedFacts]:
    timeout_s = call.time_left()
    metadata = ((REQUEST_ID_KEY, call.request_id), *trace_metadata(traceparent))
    match call.request:
        case embedding_pb.EmbedRequest() as request:
            embed = worker_pb.EmbedRequest(request=request, caller=_caller(call, traceparent))
            embed.request.model = call.model
            embed.request.priority = call.priority
            embedded = await stub.Embed(embed, timeout=timeout_s, metadata=metadata)
            return embedded.response, _used(embedded)
        case tokenization_pb.TokenizeRequest() as request:
            tokenize = worker_pb.TokenizeRequest(request=request)
            tokenize.request.model = call.model
            tokenized = await stub.Tokenize(tokenize, timeout=timeout_s, metadata=metadata)
            return tokenized.response, _NO_TOKENS
        case tokenization_pb.DetokenizeRequest() as request:
            detokenize = worker_pb.DetokenizeRequest(request=request)
            detokenize.request.model = call.model
            detokenized = await stub.Detokenize(detokenize, timeout=timeout_s, metadata=metadata)
            return detokenized.response, _NO_TOKENS
        case _:
            raise TypeError(f"workers answer no {type(call.request).__name__}")


def _caller(call: InferenceCall, traceparent: str) -> worker_pb.Caller:
    if call.identity is None:
        raise TypeError("an authenticated call is needed")
    return caller_to(call, call.identity, traceparent)


def _used(embedded: worker_pb.EmbedResponse) -> CompletedFacts:
    usage = embedded.response.usage
    return CompletedFacts(
        input_tokens=usage.input_tokens,
        cached_tokens=usage.cached_tokens,
        output_tokens=0,
        queue_ms=embedded.timings.queue_ms,
    )


def _field_of(request: object) -> str:
    """The field that made the answer as large as it is."""
    if isinstance(request, embedding_pb.EmbedRequest):
        return "inputs"
    if isinstance(request, tokenization_pb.TokenizeRequest):
        return request.WhichOneof("input") or "input"
    return "ids"


def _is_over_transport_limit(error: grpc.aio.AioRpcError) -> bool:
    return error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and error_details(error) is None
