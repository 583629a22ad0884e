import asyncio
import logging
import random
from contextlib import AsyncExitStack

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from caravan.model.v1 import model_service_pb2 as model_pb
from caravan.model.v1 import model_service_pb2_grpc as model_grpc
from caravan.telemetry.v1 import ingest_service_pb2 as ingest_pb
from caravan.telemetry.v1 import ingest_service_pb2_grpc as ingest_grpc
from caravan_rpckit.channel import open_channel
from caravan_rpckit.details import error_details
from caravan_rpckit.errors import CaravanError, Reason
from caravan_rpckit.refusals import AddressInUseError
from caravan_rpckit.server import RpcServer


async def read_all(answers):
    async for _ in answers:
        pass


class EndedError(CaravanError):
    reason = Reason.KEY_REVOKED


CANARY = "canary-5f1c"
LIMIT = 4 * 1024 * 1024
GET = "/caravan.model.v1.ModelService/GetModel"


@pytest.fixture
async def channel(server):
    async with open_channel(f"127.0.0.1:{server.port}") as channel:
        yield channel


@pytest.fixture
def models(channel):
    return model_grpc.ModelServiceStub(channel)


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    details = error_details(caught.value)
    assert details is not None, caught.value
    return caught.value.code(), details


async def test_unary_call_answers_and_names_itself(models):
    call = models.GetModel(
        model_pb.GetModelRequest(model="m"), metadata=(("x-request-id", "my-id.1"),)
    )
    assert (await call).model.name == "m"
    assert dict(await call.initial_metadata())["x-request-id"] == "my-id.1"


async def test_a_unary_call_names_itself_while_it_is_still_answered(channel):
    # On the wire the two are the same; only a caller of streams hears of headers before the end.
    get = channel.unary_stream(GET, request_serializer=model_pb.GetModelRequest.SerializeToString)
    call = get(
        model_pb.GetModelRequest(model="hang"), metadata=(("x-request-id", "my-id.2"),), timeout=60
    )
    assert dict(await call.initial_metadata())["x-request-id"] == "my-id.2"
    assert not call.done()
    call.cancel()


async def test_a_call_that_fails_after_it_named_itself_has_a_rich_status(models):
    code, details = await refusal(models.GetModel(model_pb.GetModelRequest(model="late")))
    assert code is grpc.StatusCode.NOT_FOUND
    assert details.metadata == {"model": "late"}


async def test_an_unusable_request_id_is_replaced(models):
    call = models.GetModel(
        model_pb.GetModelRequest(model="m"), metadata=(("x-request-id", "a b {}"),)
    )
    await call
    assert dict(await call.initial_metadata())["x-request-id"].isalnum()


async def test_raised_error_becomes_a_rich_status(models):
    code, details = await refusal(models.GetModel(model_pb.GetModelRequest(model="missing")))
    assert code is grpc.StatusCode.NOT_FOUND
    assert details.reason == "MODEL_NOT_FOUND"
    assert details.metadata == {"model": "missing"}


async def test_error_in_a_stream_follows_what_was_sent(models):
    seen = []

    async def read():
        async for response in models.LoadModel(model_pb.LoadModelRequest(model="missing")):
            seen.append(response)

    code, details = await refusal(read())
    assert code is grpc.StatusCode.NOT_FOUND
    assert details.reason == "MODEL_NOT_FOUND"
    assert len(seen) == 1


async def test_unexpected_exception_shows_nothing_of_itself(models, caplog):
    with caplog.at_level(logging.DEBUG):
        code, details = await refusal(models.GetModel(model_pb.GetModelRequest(model="crash")))
    assert code is grpc.StatusCode.INTERNAL
    assert details.reason == "INTERNAL"
    [record] = [r for r in caplog.records if r.message == "unexpected failure"]
    assert record.trace_id == details.metadata["trace_id"]
    assert record.exception == "ValueError"
    assert "canary" not in details.message
    assert not any("canary" in str(vars(r)) for r in caplog.records)


class FailingObserver:
    """Fails at one moment of each call."""

    def __init__(self, at):
        self._at = at

    def call_started(self, _method):
        if self._at == "start":
            raise ValueError(CANARY)

    def call_ended(self, _record):
        if self._at == "end":
            raise ValueError(CANARY)


class NotingObserver:
    def __init__(self):
        self.ended = asyncio.Queue()

    def call_started(self, _method):
        pass

    def call_ended(self, record):
        self.ended.put_nowait(record)


@pytest.fixture
async def observed(servicer):
    """Serves models to observers; returns what the last of them hears, and a stub."""
    async with AsyncExitStack() as stack:

        async def make(*observers):
            noting = NotingObserver()
            server = RpcServer("127.0.0.1:0", observers=(*observers, noting))
            server.add(servicer, model_pb.DESCRIPTOR.services_by_name["ModelService"])
            await server.start()
            stack.push_async_callback(server.stop, 0)
            channel = await stack.enter_async_context(open_channel(f"127.0.0.1:{server.port}"))
            return noting.ended, model_grpc.ModelServiceStub(channel)

        yield make


async def test_a_failure_while_a_call_is_counted_in_is_one_of_the_call(observed, caplog):
    ended, models = await observed(FailingObserver("start"))
    for call in (
        models.GetModel(model_pb.GetModelRequest(model="m"), timeout=20),
        read_all(models.LoadModel(model_pb.LoadModelRequest(model="m"), timeout=20)),
    ):
        code, details = await refusal(call)
        assert (code, details.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        async with asyncio.timeout(20):
            assert (await ended.get()).code is grpc.StatusCode.INTERNAL
    said = [r for r in caplog.records if r.message == "unexpected failure"]
    assert [r.exception for r in said] == ["ValueError"] * 2
    assert CANARY not in caplog.text


async def test_who_fails_to_note_an_end_keeps_no_other_from_it(observed, caplog):
    ended, models = await observed(FailingObserver("end"))
    await models.GetModel(model_pb.GetModelRequest(model="m"), timeout=20)
    async with asyncio.timeout(20):
        assert (await ended.get()).code is grpc.StatusCode.OK
    assert [r.exception for r in caplog.records if r.message == "unexpected failure"]
    assert CANARY not in caplog.text


async def test_client_stream_is_read_to_its_end_and_may_be_refused(channel):
    stub = ingest_grpc.IngestServiceStub(channel)
    good = [ingest_pb.StreamWorkerStatsRequest(host_id="h")] * 3
    await stub.StreamWorkerStats(iter(good))
    code, _ = await refusal(
        stub.StreamWorkerStats(iter([ingest_pb.StreamWorkerStatsRequest(host_id="bad")]))
    )
    assert code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("raw", [b"\xff\xff\xff", b"\x0a\x02\xff\xfe"], ids=["bytes", "utf8"])
async def test_undecodable_request_is_an_invalid_argument(channel, raw):
    code, details = await refusal(channel.unary_unary(GET)(raw))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.reason == "MALFORMED_REQUEST"


async def test_request_over_the_limit_is_refused_with_its_size(channel):
    code, details = await refusal(channel.unary_unary(GET)(b"x" * (LIMIT + 1)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.reason == "REQUEST_TOO_LARGE"
    assert details.metadata == {"size_bytes": str(LIMIT + 1), "limit_bytes": str(LIMIT)}


async def test_request_over_the_transport_limit_is_refused_by_grpc_and_the_server_lives(
    channel, models
):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await channel.unary_unary(GET)(b"x" * (2 * LIMIT + 100))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await models.GetModel(model_pb.GetModelRequest(model="m"))).model.name == "m"


@pytest.mark.parametrize("method", ["/caravan.model.v1.ModelService/Nope", "/x.Y/Z"])
async def test_unknown_method_is_refused_richly(channel, method):
    code, details = await refusal(channel.unary_unary(method)(b""))
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert details.reason == "METHOD_NOT_SERVED"


async def test_cancelled_and_late_calls_leave_nothing_behind(models, servicer):
    for index in range(100):
        call = models.GetModel(
            model_pb.GetModelRequest(model="hang"), timeout=0.05 if index % 2 else 10
        )
        await asyncio.sleep(random.random() * 0.01)
        call.cancel()
    with pytest.raises(grpc.aio.AioRpcError):
        await models.GetModel(model_pb.GetModelRequest(model="hang"), timeout=0.02)
    for _ in range(200):
        if servicer.live == 0:
            break
        await asyncio.sleep(0.02)
    assert servicer.live == 0


async def test_leaving_a_stream_ends_its_generator(models, servicer):
    call = models.LoadModel(model_pb.LoadModelRequest(model="hang"))
    for _ in range(3):
        await call.read()
    while servicer.live == 0:
        await asyncio.sleep(0.005)
    call.cancel()
    while servicer.live:
        await asyncio.sleep(0.005)


async def test_deadline_reaches_the_servicer(models, servicer):
    await models.GetModel(model_pb.GetModelRequest(model="m"), timeout=30)
    await models.GetModel(model_pb.GetModelRequest(model="m"))
    with_deadline, without = servicer.calls
    assert 0 < with_deadline.time_remaining() < 31  # gRPC rounds up
    assert without.time_remaining() is None


async def test_health_checks_lists_and_watches(channel, server):
    stub = health_pb2_grpc.HealthStub(channel)
    name = "caravan.model.v1.ModelService"
    serving = health_pb2.HealthCheckResponse.SERVING
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == serving
    listed = await stub.List(health_pb2.HealthListRequest())
    assert listed.statuses[name].status == serving
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=name))
    assert (await watch.read()).status == serving
    server.set_serving(name, False)
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()
    code, _ = await refusal(stub.Check(health_pb2.HealthCheckRequest(service="no.Such")))
    assert code is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_and_describes(channel, version):
    ask = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    questions = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(
            file_containing_symbol=f"grpc.reflection.{version}.ServerReflection"
        ),
        reflection_pb2.ServerReflectionRequest(
            file_containing_symbol="caravan.model.v1.ModelService"
        ),
    ]
    answers = [answer async for answer in ask(iter(questions))]
    names = {s.name for s in answers[0].list_services_response.service}
    assert names == {
        "caravan.model.v1.ModelService",
        "caravan.telemetry.v1.IngestService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    assert answers[1].file_descriptor_response.file_descriptor_proto
    assert answers[2].file_descriptor_response.file_descriptor_proto


async def test_a_taken_port_is_refused_clearly(server):
    second = RpcServer(f"127.0.0.1:{server.port}")
    with pytest.raises(AddressInUseError, match="Is another instance running"):
        await second.start()


def test_servicer_that_lacks_a_method_is_refused():
    with pytest.raises(TypeError, match="lacks"):
        RpcServer("127.0.0.1:0").add(object(), model_pb.DESCRIPTOR.services_by_name["ModelService"])


async def test_a_call_ended_from_outside_fails_with_the_given_error(models, servicer):
    call = models.GetModel(model_pb.GetModelRequest(model="hang"), timeout=10)
    running = asyncio.ensure_future(call)
    while not servicer.live:
        await asyncio.sleep(0)

    servicer.calls[0].end(EndedError("Ended."))
    servicer.calls[0].end(EndedError("Too late."))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running
    assert caught.value.details() == "Ended."
    assert error_details(caught.value).reason == "KEY_REVOKED"
    assert servicer.live == 0


async def test_a_stream_ended_while_its_client_does_not_read_fails_when_it_reads(models, servicer):
    call = models.LoadModel(model_pb.LoadModelRequest(model="flood"), timeout=10)
    answers = aiter(call)
    await anext(answers)
    while not servicer.is_blocked:
        await asyncio.sleep(0.05)

    servicer.calls[0].end(EndedError("Ended."))

    while servicer.live:
        await asyncio.sleep(0)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await read_all(answers)
    assert error_details(caught.value).reason == "KEY_REVOKED"
