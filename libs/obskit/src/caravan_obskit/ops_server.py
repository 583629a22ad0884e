"""The operations port: `/metrics`, `/health/live` and `/health/ready` over plain HTTP.

Answers GET and HEAD of three paths and closes the connection; everything else is refused. That
little needs no web framework, whose memory each of the four services would pay for.
"""

import asyncio
import contextlib
import errno
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import ClassVar

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from caravan_obskit.readiness import Readiness
from caravan_rpckit.errors import CaravanError, Reason
from caravan_rpckit.refusals import AddressInUseError

MOST_HEAD_BYTES = 8 * 1024
MOST_CONNECTIONS = 64
TIME_LIMIT_S = 5.0

_log = logging.getLogger(__name__)


class AddressUnusableError(CaravanError):
    """The ops address isn't of this machine, or may not be listened on."""

    reason: ClassVar[Reason] = Reason.INVALID_CONFIGURATION


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Response:
    status: HTTPStatus
    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = field(default_factory=dict)

    def encoded(self, *, with_body: bool) -> bytes:
        lines = [
            f"HTTP/1.1 {self.status.value} {self.status.phrase}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            "Cache-Control: no-store",
            "Connection: close",
            *(f"{name}: {value}" for name, value in self.headers.items()),
        ]
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        return head + self.body if with_body else head


class _RefusedRequestError(Exception):
    """The request can't be answered; holds the status to send."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


class OpsServer:
    """Serves the metrics of one registry and one readiness; belongs to its event loop.

    Collectors run on the event loop during a scrape, so they must not block.
    """

    def __init__(
        self,
        port: int,
        *,
        registry: CollectorRegistry,
        readiness: Readiness,
        host: str = "127.0.0.1",
        time_limit_s: float = TIME_LIMIT_S,
    ) -> None:
        """Prepares a server.

        Args:
            port: TCP port; 0 takes a free one, which `port` tells after the start.
            registry: what `/metrics` shows.
            readiness: what `/health/ready` shows.
            host: address to listen on.
            time_limit_s: most time for one request and its answer.
        """
        self.port = port
        self._host = host
        self._registry = registry
        self._readiness = readiness
        self._time_limit_s = time_limit_s
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._routes: Mapping[str, Callable[[_Request], _Response]] = {
            "/metrics": self._metrics,
            "/health/live": self._live,
            "/health/ready": self._ready,
        }

    async def start(self) -> None:
        """Binds the port.

        Raises:
            AddressInUseError: another process listens there.
            AddressUnusableError: the system refuses the address.
        """
        try:
            self._server = await asyncio.start_server(
                self._on_connection, self._host, self.port, limit=MOST_HEAD_BYTES
            )
        except OSError as error:
            raise _address_fault(f"{self._host}:{self.port}", error) from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def start_in(self, resources: contextlib.AsyncExitStack) -> int:
        """Binds the port until `resources` are closed, and returns it.

        Raises:
            CaravanError: as `start` does.
        """
        resources.push_async_callback(self.stop)
        await self.start()
        return self.port

    async def stop(self) -> None:
        """Closes the port and every connection; does nothing when it never started."""
        if self._server is None:
            return
        self._server.close()
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MOST_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request; a client that leaves or dawdles is nobody's error."""
        with contextlib.suppress(ConnectionError, TimeoutError):
            try:
                async with asyncio.timeout(self._time_limit_s):
                    writer.write(await self._exchange(reader))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
            finally:
                writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader) -> bytes:
        try:
            request = await _read_request(reader)
            response = self._answer(request)
        except _RefusedRequestError as refused:
            return _plain(refused.status).encoded(with_body=True)
        return response.encoded(with_body=request.method == "GET")

    def _answer(self, request: _Request) -> _Response:
        route = self._routes.get(request.path)
        if route is None:
            return _plain(HTTPStatus.NOT_FOUND)
        if request.method not in ("GET", "HEAD"):
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"})
        try:
            return route(request)
        except Exception:  # noqa: BLE001 (a collector's fault must not end the port)
            _log.exception("can't answer on the ops port", extra={"path": request.path})
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)

    def _metrics(self, _: _Request) -> _Response:
        # Never OpenMetrics, whatever the scraper would like: prometheus_client's encoder writes
        # `vllm:x` as `vllm_x` there, so dashboards would not find it (client_python issue 1177).
        return _Response(HTTPStatus.OK, generate_latest(self._registry), CONTENT_TYPE_PLAIN_0_0_4)

    def _live(self, _: _Request) -> _Response:
        return _json(HTTPStatus.OK, {"status": "live"})

    def _ready(self, _: _Request) -> _Response:
        if self._readiness.is_ready:
            return _json(HTTPStatus.OK, {"status": "ready", "not_ready": {}})
        missing = self._readiness.missing
        answer = {"status": "not ready", "not_ready": missing}
        return _json(HTTPStatus.SERVICE_UNAVAILABLE, answer)


async def _read_request(reader: asyncio.StreamReader) -> _Request:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise _RefusedRequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE) from error
    except asyncio.IncompleteReadError as error:
        raise _RefusedRequestError(HTTPStatus.BAD_REQUEST) from error
    first, *lines = head.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise _RefusedRequestError(HTTPStatus.BAD_REQUEST)
    pairs = (line.partition(":") for line in lines if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return _Request(parts[0], parts[1].partition("?")[0], headers)


def _plain(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> _Response:
    return _Response(status, f"{status.phrase}\n".encode(), headers=headers or {})


def _json(status: HTTPStatus, content: Mapping[str, object]) -> _Response:
    return _Response(status, json.dumps(content).encode() + b"\n", "application/json")


def _address_fault(address: str, error: OSError) -> CaravanError:
    metadata = {"address": address}
    if error.errno == errno.EADDRINUSE:
        return AddressInUseError(
            f"can't listen on {address} (ops): another process does. Is another instance running?",
            metadata=metadata,
        )
    return AddressUnusableError(
        f"can't listen on {address} (ops): {error.strerror or error}", metadata=metadata
    )
