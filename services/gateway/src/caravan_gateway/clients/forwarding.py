"""Passes a public call on to the service that serves it, byte by byte what it answers."""

from collections.abc import AsyncGenerator

import grpc.aio
from google.protobuf.message import Message

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan_gateway.clients.failures import forwarding_failure
from caravan_gateway.runtime.forwarded_call import ForwardedCall
from caravan_rpckit.call import REQUEST_ID_KEY
from caravan_rpckit.tracing import UNTRACED, CallTracing, trace_metadata

_CALLER_KEY = "caravan-caller-bin"


class ServiceForwarder:
    """Passes the unary calls of one service's API on."""

    def __init__(
        self, channel: grpc.aio.Channel, service: str, tracing: CallTracing = UNTRACED
    ) -> None:
        self._channel = channel
        self._service = service
        self._tracing = tracing

    async def unary(self, request: Message, forwarded: ForwardedCall) -> bytes:
        """Returns the answer's bytes."""
        return await forward_unary(self._channel, self._service, request, forwarded, self._tracing)


async def forward_unary(
    channel: grpc.aio.Channel,
    service: str,
    request: Message,
    forwarded: ForwardedCall,
    tracing: CallTracing = UNTRACED,
) -> bytes:
    """Returns the bytes of the answer.

    Raises:
        DependencyUnavailableError: `service` cannot be reached.
        AioRpcError: what it refused with.
    """
    send: grpc.aio.UnaryUnaryMultiCallable[Message, bytes] = channel.unary_unary(
        f"/{forwarded.method}", request_serializer=type(request).SerializeToString
    )
    try:
        with tracing.client_span(forwarded.method) as traceparent:
            metadata = _metadata(forwarded, traceparent)
            response: bytes = await send(request, timeout=forwarded.timeout_s, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        raise forwarding_failure(error, service) from None
    return response


async def forward_stream(
    channel: grpc.aio.Channel,
    service: str,
    request: Message,
    forwarded: ForwardedCall,
    tracing: CallTracing = UNTRACED,
) -> AsyncGenerator[bytes, None]:
    """Yields the bytes of each answer; closing it cancels the call upstream.

    Raises:
        DependencyUnavailableError: `service` cannot be reached.
        AioRpcError: what it refused with.
    """
    send: grpc.aio.UnaryStreamMultiCallable[Message, bytes] = channel.unary_stream(
        f"/{forwarded.method}", request_serializer=type(request).SerializeToString
    )
    try:
        with tracing.client_span(forwarded.method) as traceparent:
            metadata = _metadata(forwarded, traceparent)
            call = send(request, timeout=forwarded.timeout_s, metadata=metadata)
            try:
                async for response in call:
                    yield response
            finally:
                call.cancel()
    except grpc.aio.AioRpcError as error:
        raise forwarding_failure(error, service) from None


def _metadata(forwarded: ForwardedCall, traceparent: str) -> tuple[tuple[str, str | bytes], ...]:
    """All that goes along: nothing that the client sent is passed on, and who it is, is said."""
    caller = worker_pb.Caller(
        tenant=forwarded.identity.tenant,
        principal=forwarded.identity.principal,
        request_id=forwarded.request_id,
    )
    return (
        (REQUEST_ID_KEY, forwarded.request_id),
        (_CALLER_KEY, caller.SerializeToString()),
        *trace_metadata(traceparent),
    )
