import asyncio
import contextlib
import json

import pytest
from prometheus_client import CollectorRegistry, Counter

from caravan_obskit.ops_server import (
    MOST_CONNECTIONS,
    MOST_HEAD_BYTES,
    AddressUnusableError,
    OpsServer,
)
from caravan_obskit.readiness import Readiness
from caravan_rpckit.errors import Reason
from caravan_rpckit.refusals import AddressInUseError


class BrokenCollector:
    def collect(self):
        raise RuntimeError("no numbers")

    def describe(self):
        return []


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def readiness():
    return Readiness(["database", "policy"])


@pytest.fixture
async def server(registry, readiness):
    server = OpsServer(0, registry=registry, readiness=readiness)
    await server.start()
    yield server
    await server.stop()


async def send(server, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return answer


async def get(server, path, method="GET", headers=""):
    answer = await send(server, f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), body.decode()


async def test_metrics_of_the_registry_are_served(server, registry):
    Counter("caravan_x_total", "X.", registry=registry).inc(3)
    status, head, body = await get(server, "/metrics?name=x")
    assert status == 200
    assert "caravan_x_total 3.0" in body.splitlines()
    assert "Content-Type: text/plain" in head


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=1.0.0",
        "application/openmetrics-text;version=1.0.0;escaping=underscores,text/plain;version=0.0.4",
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8",
        "text/plain;version=1.0.0;escaping=values",
    ],
)
async def test_names_keep_their_colon_whatever_the_scraper_accepts(server, registry, accept):
    Counter("vllm:x_total", "X.", registry=registry).inc(3)
    _, head, body = await get(server, "/metrics", headers=f"Accept: {accept}\r\n")
    assert "Content-Type: text/plain; version=0.0.4" in head
    assert "vllm:x_total 3.0" in body.splitlines()


async def test_readiness_names_what_is_missing(server, readiness):
    readiness.met("database")
    readiness.unmet("policy", "connecting")
    status, _, body = await get(server, "/health/ready")
    assert status == 503
    assert json.loads(body) == {"status": "not ready", "not_ready": {"policy": "connecting"}}
    readiness.met("policy")
    status, _, body = await get(server, "/health/ready")
    assert (status, json.loads(body)["status"]) == (200, "ready")


def test_readiness_begins_unmet_and_refuses_strangers(readiness):
    assert readiness.missing == {"database": "not yet", "policy": "not yet"}
    with pytest.raises(KeyError):
        readiness.met("datebase")
    with pytest.raises(KeyError):
        readiness.unmet("datebase", "why")


async def test_liveness_needs_no_readiness(server):
    assert (await get(server, "/health/live"))[0] == 200


async def test_head_gives_the_length_without_the_body(server):
    status, head, body = await get(server, "/health/live", method="HEAD")
    assert (status, body) == (200, "")
    assert "Content-Length: 19" in head


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/metrics", 405), ("GET", "/", 404), ("GET", "/metrics/../x", 404)],
)
async def test_everything_else_is_refused(server, method, path, status):
    assert (await get(server, path, method=method))[0] == status


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01 nonsense\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET /metrics HTTP/2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * (MOST_HEAD_BYTES + 1) + b"\r\n\r\n", 431),
    ],
)
async def test_bad_requests_are_refused(server, data, status):
    assert (await send(server, data)).startswith(f"HTTP/1.1 {status} ".encode())


async def test_a_broken_collector_is_our_fault_and_told_only_to_the_log(server, registry, caplog):
    registry.register(BrokenCollector())
    status, _, body = await get(server, "/metrics")
    assert (status, body) == (500, "Internal Server Error\n")
    assert "no numbers" in caplog.text
    assert (await get(server, "/health/live"))[0] == 200


async def test_a_silent_client_is_cut_off(registry, readiness):
    server = OpsServer(0, registry=registry, readiness=readiness, time_limit_s=0.01)
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    await server.stop()


async def test_clients_beyond_the_bound_are_cut_off_and_the_others_served(server):
    async def connect():
        return await asyncio.open_connection("127.0.0.1", server.port)

    held = [await connect() for _ in range(MOST_CONNECTIONS)]
    await asyncio.sleep(0)
    beyond, beyond_writer = await connect()
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(beyond.read(), 10) == b""
    held[0][1].write(b"GET /health/live HTTP/1.1\r\n\r\n")
    assert b"200 OK" in await asyncio.wait_for(held[0][0].read(), 10)
    for writer in (beyond_writer, *(writer for _, writer in held)):
        writer.close()


async def test_stopping_ends_open_connections_and_frees_the_port(server, registry, readiness):
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET")
    await writer.drain()
    await server.stop()
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()
    again = OpsServer(server.port, registry=registry, readiness=readiness)
    await again.start()
    await again.stop()


async def test_stopping_without_a_start_does_nothing(registry, readiness):
    await OpsServer(0, registry=registry, readiness=readiness).stop()


async def test_a_taken_port_is_a_clear_error(server, registry, readiness):
    with pytest.raises(AddressInUseError, match=f":{server.port} .*another process") as raised:
        await OpsServer(server.port, registry=registry, readiness=readiness).start()
    assert raised.value.reason is Reason.ADDRESS_IN_USE


async def test_an_address_of_another_machine_is_a_clear_error(registry, readiness):
    server = OpsServer(0, host="192.0.2.1", registry=registry, readiness=readiness)
    with pytest.raises(AddressUnusableError, match=r"192\.0\.2\.1"):
        await server.start()


async def test_the_port_is_free_again_when_its_resources_are_closed(registry, readiness):
    async with contextlib.AsyncExitStack() as resources:
        port = await OpsServer(0, registry=registry, readiness=readiness).start_in(resources)
        with pytest.raises(AddressInUseError):
            await OpsServer(port, registry=registry, readiness=readiness).start()
    again = OpsServer(port, registry=registry, readiness=readiness)
    await again.start()
    await again.stop()
