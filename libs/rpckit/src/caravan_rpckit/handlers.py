"""From raw bytes to a servicer's method and back, with every failure mapped.

gRPC answers undecodable bytes, unknown methods and escaped exceptions in its own way, without
details. So the handlers registered with it take and give bytes, and everything else happens here.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
import uuid
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc.aio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import status_pb2

from caravan_rpckit.call import Call
from caravan_rpckit.details import details_of, rich_status
from caravan_rpckit.errors import CaravanError, Reason
from caravan_rpckit.observers import CallObserver, CallRecord
from caravan_rpckit.refusals import (
    CallCancelledError,
    DeadlineExceededError,
    DependencyUnavailableError,
    MalformedRequestError,
    MethodNotServedError,
    PeerNotAllowedError,
    RequestTooLargeError,
)
from caravan_rpckit.status import STATUS_DETAILS_KEY, code_of, internal_status, status_of
from caravan_rpckit.tracing import TRACEPARENT_KEY, CallTrace, CallTracing

_log = logging.getLogger("caravan.rpckit")

# By then a call that asks another service has asked it.
_ANNOUNCE_AFTER_S = 0.002


@dataclass(frozen=True, slots=True)
class HandlerRules:
    """What holds for all methods of a service."""

    request_limit_bytes: int
    peers: Collection[str] | None
    observers: Sequence[CallObserver]
    announce_request_id: bool
    tracing: CallTracing | None = None


class MethodHandler:
    """Serves one method; registered with gRPC through `rpc_method_handler()`."""

    def __init__(
        self,
        method: str,
        descriptor: MethodDescriptor,
        behaviour: Callable[..., Any],
        rules: HandlerRules,
    ) -> None:
        self.method = method
        self._descriptor = descriptor
        self._behaviour = behaviour
        self._rules = rules
        self._request_class: type[Message] = GetMessageClass(descriptor.input_type)

    def rpc_method_handler(self) -> grpc.RpcMethodHandler[bytes, bytes]:
        """The gRPC side of this method, raw bytes on both sides."""
        kinds: dict[tuple[bool, bool], tuple[Callable[..., Any], Callable[..., Any]]] = {
            (False, False): (grpc.unary_unary_rpc_method_handler, self._unary_unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, self._unary_stream),
            (True, False): (grpc.stream_unary_rpc_method_handler, self._stream_unary),
            (True, True): (grpc.stream_stream_rpc_method_handler, self._stream_stream),
        }
        streaming = (self._descriptor.client_streaming, self._descriptor.server_streaming)
        make, serve = kinds[streaming]
        handler: grpc.RpcMethodHandler[bytes, bytes] = make(serve)
        return handler

    async def _unary_unary(self, raw: bytes, context: Any) -> bytes:  # noqa: ANN401 (gRPC's)
        async def serve(call: Call) -> bytes:
            async with self._announcing_early(call):
                response = _serialized(await self._behaviour(self._parse(raw), call))
            await self._announce(call)
            return response

        result: bytes = await self._guarded(context, serve)
        return result

    async def _stream_unary(self, requests: AsyncIterator[bytes], context: Any) -> bytes:  # noqa: ANN401
        async def serve(call: Call) -> bytes:
            return _serialized(await self._behaviour(self._parse_all(requests), call))

        result: bytes = await self._guarded(context, serve)
        return result

    async def _unary_stream(self, raw: bytes, context: Any) -> None:  # noqa: ANN401
        async def serve(call: Call) -> None:
            await self._write_all(self._behaviour(self._parse(raw), call), call, context)

        await self._guarded(context, serve)

    async def _stream_stream(self, requests: AsyncIterator[bytes], context: Any) -> None:  # noqa: ANN401
        async def serve(call: Call) -> None:
            await self._write_all(self._behaviour(self._parse_all(requests), call), call, context)

        await self._guarded(context, serve)

    async def _write_all(self, responses: Any, call: Call, context: Any) -> None:  # noqa: ANN401
        async with aclosing(responses):
            async for response in responses:
                await self._announce(call)
                await context.write(_serialized(response))

    @asynccontextmanager
    async def _announcing_early(self, call: Call) -> AsyncIterator[None]:
        """Sends the headers while the answer is still made, so that it needn't wait for them."""
        if not self._rules.announce_request_id:
            yield
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(_ANNOUNCE_AFTER_S, call.begin_initial_metadata)
        try:
            yield
        finally:
            timer.cancel()
            await call.settle_initial_metadata()

    async def _announce(self, call: Call) -> None:
        if self._rules.announce_request_id:
            await call.send_initial_metadata()

    def _parse(self, raw: bytes) -> Message:
        limit = self._rules.request_limit_bytes
        if len(raw) > limit:
            raise RequestTooLargeError(
                f"The request has {len(raw)} bytes; at most {limit} are allowed.",
                metadata={"size_bytes": str(len(raw)), "limit_bytes": str(limit)},
            )
        try:
            return self._request_class.FromString(raw)
        except DecodeError:
            raise MalformedRequestError(
                f"The request is not a valid {self._descriptor.input_type.full_name}: "
                "its bytes cannot be decoded, or a text in it is not UTF-8."
            ) from None

    async def _parse_all(self, requests: AsyncIterator[bytes]) -> AsyncIterator[Message]:
        async for raw in requests:
            yield self._parse(raw)

    async def _guarded(self, context: Any, serve: Callable[[Call], Awaitable[Any]]) -> Any:  # noqa: ANN401
        """Runs `serve`, ends the call with a rich status if it fails, and tells the observers."""
        call = Call(self.method, context, CallTrace(self._rules.tracing, self.method))
        call.trace.begin(call.metadata.get(TRACEPARENT_KEY, ""))
        started = time.perf_counter()
        status: status_pb2.Status | None = None
        try:
            for observer in self._rules.observers:
                observer.call_started(self.method)
            self._check_peer(call)
            return await serve(call)
        except asyncio.CancelledError:
            status = status_of(call.ended_with or _interruption(call))
            if call.ended_with is None:
                raise
            await self._fail(status, call, context)
        except grpc.aio.InternalError:  # gRPC's way to say that it cannot send: the caller left
            status = status_of(_interruption(call))
            raise asyncio.CancelledError from None
        except Exception as error:  # noqa: BLE001 (the border: nothing may pass unmapped)
            status = _map_failure(error, call)
            await self._fail(status, call, context)
        finally:
            # Later, so that no answer waits for the log; nothing can come in before that.
            duration_s = time.perf_counter() - started
            asyncio.get_running_loop().call_soon(self._report, call, status, duration_s)

    def _check_peer(self, call: Call) -> None:
        if self._rules.peers is not None and call.peer not in self._rules.peers:
            raise PeerNotAllowedError(
                "This internal method may be called by other services of the deployment only.",
                metadata={"peer": call.peer or "", "method": self.method},
            )

    async def _fail(self, status: status_pb2.Status, call: Call, context: Any) -> NoReturn:  # noqa: ANN401
        trailing = ((STATUS_DETAILS_KEY, status.SerializeToString()),)
        try:
            await self._announce(call)
            await context.abort(code_of(status), status.message, trailing)
        except grpc.aio.InternalError:  # the caller left meanwhile
            raise asyncio.CancelledError from None
        raise AssertionError("abort does not return")

    def _report(self, call: Call, status: status_pb2.Status | None, duration_s: float) -> None:
        details = None if status is None else details_of(status)
        record = CallRecord(
            method=self.method,
            request_id=call.request_id,
            peer=call.peer,
            code=grpc.StatusCode.OK if status is None else code_of(status),
            reason="" if details is None else details.reason,
            duration_s=duration_s,
            trace_id=call.trace.trace_id,
        )
        call.trace.end(record.code, record.reason, record.request_id)
        for observer in self._rules.observers:
            try:
                observer.call_ended(record)
            except Exception as error:  # noqa: BLE001 (the others are told all the same)
                _log_unexpected(error, call, record.trace_id)


def _serialized(response: Message | bytes) -> bytes:
    return response if isinstance(response, bytes) else response.SerializeToString()


def _interruption(call: Call) -> CaravanError:
    remaining = call.time_remaining()
    if remaining is not None and remaining <= 0:
        return DeadlineExceededError("The deadline passed.")
    return CallCancelledError("The caller left.")


def _map_failure(error: Exception, call: Call) -> status_pb2.Status:
    if isinstance(error, CaravanError) and error.reason is not Reason.INTERNAL:
        return status_of(error)
    if isinstance(error, grpc.aio.AioRpcError):
        return _map_upstream(error, call)
    return _unexpected(error, call)


def _map_upstream(error: grpc.aio.AioRpcError, call: Call) -> status_pb2.Status:
    """A Caravan service's own words pass unchanged; gRPC's are put into ours."""
    status = rich_status(error)
    if status is not None and details_of(status) is not None and status.code:
        return status
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return status_of(
            DependencyUnavailableError("A service that this call needs cannot be reached.")
        )
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return status_of(DeadlineExceededError("The deadline passed."))
    if error.code() is grpc.StatusCode.CANCELLED:
        return status_of(CallCancelledError("The call was cancelled."))
    return _unexpected(error, call)


def _unexpected(error: Exception, call: Call) -> status_pb2.Status:
    """Logs where it happened. The exception's own text stays out: it may quote a prompt."""
    trace_id = call.trace.trace_id or uuid.uuid4().hex
    _log_unexpected(error, call, trace_id)
    return internal_status(trace_id)


def _log_unexpected(error: Exception, call: Call, trace_id: str) -> None:
    frames = [
        f"{frame.filename}:{frame.lineno} {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
    ]
    _log.error(
        "unexpected failure",
        extra={
            "method": call.method,
            "request_id": call.request_id,
            "trace_id": trace_id,
            "exception": type(error).__qualname__,
            "frames": frames,
        },
    )


def unserved_handler(method: str) -> grpc.RpcMethodHandler[bytes, bytes]:
    """Refuses any call of a method that is not served, whatever its kind."""

    async def refuse(requests: AsyncIterator[bytes], context: Any) -> None:  # noqa: ANN401
        status = status_of(
            MethodNotServedError(
                "No such method is served here; list them by reflection.",
                metadata={"method": method.removeprefix("/")[:256]},
            )
        )
        trailing = ((STATUS_DETAILS_KEY, status.SerializeToString()),)
        await context.abort(code_of(status), status.message, trailing)

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(refuse)
    return handler
