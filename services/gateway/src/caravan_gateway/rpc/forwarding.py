"""What the servicers of passed-on services share."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from google.protobuf.message import Message

from caravan_gateway.domain.principal import Identity
from caravan_gateway.rpc.convert import AUTHORIZATION_KEY
from caravan_gateway.runtime.access import AccessGate
from caravan_gateway.runtime.forwarded_call import ForwardedCall
from caravan_rpckit.call import Call


class UnaryForwarder(Protocol):
    """The service behind."""

    async def unary(self, request: Message, forwarded: ForwardedCall) -> bytes:
        """Returns the answer's bytes, or raises what the service refused with."""


class StreamForwarder(Protocol):
    """The service behind, for streamed answers."""

    def stream(self, request: Message, forwarded: ForwardedCall) -> AsyncGenerator[bytes, None]:
        """Yields the answers' bytes, or raises what the service refused with."""


async def pass_on(
    gate: AccessGate,
    forwarder: UnaryForwarder,
    request: Message,
    call: Call,
    model: str | None = None,
) -> bytes:
    """Passes a call on for a caller that may; `model` is the name in the request."""
    credential = call.metadata.get(AUTHORIZATION_KEY)
    async with gate.passed(call.method, credential, call.end, model) as (_, identity):
        return await forwarder.unary(request, _forwarded(call, identity, model))


async def pass_on_stream(
    gate: AccessGate,
    forwarder: StreamForwarder,
    request: Message,
    call: Call,
    model: str | None = None,
) -> AsyncGenerator[bytes, None]:
    """Like `pass_on`, for streamed answers."""
    credential = call.metadata.get(AUTHORIZATION_KEY)
    async with gate.passed(call.method, credential, call.end, model) as (live, identity):
        answers = forwarder.stream(request, _forwarded(call, identity, model))
        async with aclosing(live.relayed(answers)) as relayed:
            async for answer in relayed:
                yield answer


def _forwarded(call: Call, identity: Identity, model: str | None) -> ForwardedCall:
    return ForwardedCall(call.method, identity, call.request_id, call.time_remaining(), model)
