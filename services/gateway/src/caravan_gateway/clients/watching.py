"""Keeps a stream of news open: connects, listens, and connects again after each break."""

import asyncio
import logging
from collections.abc import AsyncIterable, Callable
from typing import Protocol, TypeVar

import grpc
import grpc.aio

from caravan_gateway.runtime.backoff import Backoff
from caravan_rpckit.details import error_details

M = TypeVar("M", contravariant=True)
N = TypeVar("N")

_log = logging.getLogger("caravan.gateway.watch")

_FIRST_WAIT_S = 0.1
_MAX_WAIT_S = 1.0


class NewsListener(Protocol[M]):
    """Is told what a stream says."""

    def heard(self, message: M, *, first: bool) -> None:
        """A message; `first` on a new stream."""

    def lost(self, detail: str) -> None:
        """The stream broke, or could not be opened."""


async def watch_forever(
    open_stream: Callable[[], AsyncIterable[N]], listener: NewsListener[N], *, source: str
) -> None:
    """Listens until cancelled. `source` names the other end in the log."""
    backoff = Backoff(_FIRST_WAIT_S, _MAX_WAIT_S)
    connected = False
    while True:
        detail = "the stream ended"
        try:
            first = True
            async for message in open_stream():
                listener.heard(message, first=first)
                if first:
                    _log.info("watching", extra={"source": source})
                first, connected = False, True
                backoff.reset()
        except grpc.aio.AioRpcError as error:
            detail = _describe(error)
        listener.lost(detail)
        if connected:
            _log.warning("watch broke", extra={"source": source, "detail": detail})
        connected = False
        await asyncio.sleep(backoff.next_s())


def _describe(error: grpc.aio.AioRpcError) -> str:
    details = error_details(error)
    return error.code().name if details is None else f"{error.code().name}: {details.reason}"
