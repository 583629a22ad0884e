"""What a servicer may know about the call that it serves."""

from __future__ import annotations

import asyncio
import math
import re
import uuid
from collections.abc import Mapping

import grpc.aio

from caravan_rpckit.errors import CaravanError
from caravan_rpckit.tls import peer_service
from caravan_rpckit.tracing import CallTrace

REQUEST_ID_KEY = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class Call:
    """One call in progress. Lives on the server's event loop, and as long as the call does."""

    __slots__ = (
        *("_context", "_headers", "_metadata", "_task"),
        *("ended_with", "method", "peer", "request_id", "trace"),
    )

    def __init__(
        self,
        method: str,
        context: grpc.aio.ServicerContext[bytes, bytes],
        trace: CallTrace | None = None,
    ) -> None:
        self.method = method
        self.trace = trace if trace is not None else CallTrace(None, method)
        self.ended_with: CaravanError | None = None
        self._context = context
        self._task = asyncio.current_task()
        self._metadata: dict[str, str] | None = None
        self._headers: asyncio.Future[None] | None = None
        self.peer = peer_service(context.auth_context())
        self.request_id = _request_id(self.metadata.get(REQUEST_ID_KEY, ""))

    @property
    def metadata(self) -> Mapping[str, str]:
        """Text entries that the caller sent; of a repeated key the last one."""
        if self._metadata is None:
            entries = self._context.invocation_metadata() or ()
            self._metadata = {key: value for key, value in entries if isinstance(value, str)}
        return self._metadata

    def binary_metadata(self, key: str) -> bytes | None:
        """The entry under a key that ends in `-bin`, or None."""
        for name, value in self._context.invocation_metadata() or ():
            if name == key and isinstance(value, bytes):
                return value
        return None

    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline, or None where the caller set none."""
        remaining = self._context.time_remaining()
        return None if remaining is None or math.isinf(remaining) else remaining

    def end(self, error: CaravanError) -> None:
        """Ends the call from outside its handler, which may wait for anything, also its client.

        The handler is cancelled and the client gets `error`; a client that does not read gets it
        when it does. The first error counts. Call it only while the handler runs.
        """
        if self.ended_with is None and self._task is not None:
            self.ended_with = error
            self._task.cancel()

    def begin_initial_metadata(self) -> asyncio.Future[None]:
        """Sends the headers, the request id among them, once; done when they are sent."""
        if self._headers is None:
            headers = ((REQUEST_ID_KEY, self.request_id),)
            self._headers = asyncio.ensure_future(self._context.send_initial_metadata(headers))
            self._headers.add_done_callback(_note_failure)
        return self._headers

    async def settle_initial_metadata(self) -> None:
        """Returns when headers that were begun are sent, or can't be."""
        if self._headers is not None:
            await asyncio.wait((self._headers,))

    async def send_initial_metadata(self) -> None:
        """Sends the headers if nobody did, and returns when they are sent."""
        sending = self.begin_initial_metadata()
        try:
            await asyncio.shield(sending)
        except asyncio.CancelledError:
            await sending  # gRPC takes no status while headers are under way
            raise


def _request_id(proposed: str) -> str:
    return proposed if _REQUEST_ID.fullmatch(proposed) else uuid.uuid4().hex


def _note_failure(sending: asyncio.Future[None]) -> None:
    """Marks a failure as seen: whoever waits for the headers gets it, and nobody has to."""
    if not sending.cancelled():
        sending.exception()
