import asyncio
import datetime
import ipaddress

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from gateway_client import ADMIN_KEY, events_of, failure_of, metric, ops, request_of, until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from caravan.inference.v1 import inference_service_pb2_grpc as inference_grpc
from caravan_gateway.app import GatewayApp
from caravan_gateway.domain.errors import InsecureListenerError
from caravan_rpckit.errors import Reason
from caravan_rpckit.refusals import AddressInUseError
from caravan_servicekit.data_directory import DataDirectoryInUseError

SERVED = {
    "caravan.inference.v1.InferenceService",
    "caravan.model.v1.ModelService",
    "caravan.policy.v1.PolicyAdminService",
    "caravan.gateway.v1.GatewayAdminService",
    "caravan.gateway.v1.StreamService",
    "caravan.telemetry.v1.TraceQueryService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_exactly_what_is_served_without_a_key(gateway, client_of, version):
    channel = client_of(gateway, None).channel
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )

    (answer,) = await events_of(call([reflection_pb2.ServerReflectionRequest(list_services="")]))

    assert {one.name for one in answer.list_services_response.service} == SERVED


async def test_internal_services_are_not_served(gateway, client_of):
    channel = client_of(gateway).channel
    for method in (
        "/caravan.policy.v1.AuthenticationService/Authenticate",
        "/caravan.engine.v1.WorkerService/Run",
        "/caravan.telemetry.v1.IngestService/IngestUsage",
    ):
        code, details = await failure_of(channel.unary_unary(method)(b""))
        assert (code, details.reason) == ("UNIMPLEMENTED", "METHOD_NOT_SERVED")


async def test_health_needs_no_key_and_follows_readiness(gateway, client_of, policy):
    health = health_pb2_grpc.HealthStub(client_of(gateway, None).channel)

    async def serving(service):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
        return answer.status == health_pb2.HealthCheckResponse.SERVING

    assert await serving("")
    assert await serving("caravan.inference.v1.InferenceService")
    await policy.stop()
    await until(lambda: not gateway.is_ready, "the loss")
    assert await serving("")
    assert not await serving("caravan.inference.v1.InferenceService")


async def test_ready_needs_policy_and_an_engine_but_not_telemetry(
    start_gateway, policy, engine, telemetry
):
    await telemetry.stop()
    app = await start_gateway()
    assert (await ops(app, "/health/live"))[0] == 200
    assert (await ops(app, "/health/ready"))[0] == 200

    await engine.stop()
    await until(lambda: not app.is_ready, "the loss")
    status, body = await ops(app, "/health/ready")
    assert status == 503
    assert "engine" in body
    assert (await ops(app, "/health/live"))[0] == 200

    await engine.start()
    await until(lambda: app.is_ready, "the news")


async def test_a_draining_gateway_refuses_new_calls_and_finishes_the_others(
    gateway, client, admin, worker
):
    worker.pause_s = 0.02
    running = client.stream("30")
    answers = aiter(running)
    await anext(answers)
    draining = asyncio.create_task(gateway.drain())
    await asyncio.sleep(0)

    code, details = await failure_of(client.generate())
    assert (code, details.reason) == ("UNAVAILABLE", "DRAINING")
    assert details.retry_after_s > 0
    assert not gateway.is_ready

    rest = [event async for event in answers]
    assert rest[-1].WhichOneof("event") == "completed"
    await draining


async def test_what_does_not_finish_in_time_ends_with_draining(start_gateway, client_of, worker):
    app = await start_gateway()
    call = client_of(app).stream("hang")
    await anext(aiter(call))

    await app.drain()

    code, details = await failure_of(call)
    assert (code, details.reason) == ("UNAVAILABLE", "DRAINING")
    await until(lambda: worker.num_live == 0, "its end")


async def test_more_calls_than_allowed_are_refused(start_gateway, client_of):
    app = await start_gateway(server={"max_calls": 2})
    client = client_of(app)
    calls = [client.stream("hang") for _ in range(2)]
    for call in calls:
        await anext(aiter(call))

    code, details = await failure_of(client.generate())

    assert (code, details.reason) == ("UNAVAILABLE", "QUEUE_FULL")
    assert details.retry_after_s > 0
    for call in calls:
        call.cancel()


async def test_calls_that_are_over_but_unread_count_too(start_gateway, client_of, worker):
    app = await start_gateway(server={"max_calls": 2, "reader_stall_s": 1.0})
    client = client_of(app)
    calls = [client.stream("flood") for _ in range(2)]
    for call in calls:
        await anext(aiter(call))
    await until(lambda: worker.num_live == 0, "the end of the runs")

    code, details = await failure_of(client.generate())

    assert (code, details.reason) == ("UNAVAILABLE", "QUEUE_FULL")
    for call in calls:
        call.cancel()
    async with asyncio.timeout(5):
        while await metric(app, "caravan_gateway_requests_active"):
            await asyncio.sleep(0.02)
    await client.generate()


async def test_plaintext_beyond_loopback_is_refused(settings):
    app = GatewayApp(_listening_on(settings(), "0.0.0.0:0"))
    with pytest.raises(InsecureListenerError) as caught:
        await app.start()
    await app.stop()
    assert caught.value.reason is Reason.INVALID_CONFIGURATION


def _listening_on(settings, address, **changes):
    server = settings.server.model_copy(update={"address": address, **changes})
    return settings.model_copy(update={"server": server})


async def test_plaintext_beyond_loopback_can_be_allowed(settings):
    app = GatewayApp(_listening_on(settings(), "0.0.0.0:0", allow_plaintext=True))
    await app.start()
    assert app.port
    await app.stop()


async def test_the_public_listener_speaks_tls_by_setting(settings, tmp_path):
    certificate, key = _self_signed(tmp_path)
    app = GatewayApp(
        _listening_on(settings(), "0.0.0.0:0", tls_certificate_path=certificate, tls_key_path=key)
    )
    await app.start()
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    try:
        await until(lambda: app.is_ready, "readiness")
        async with grpc.aio.secure_channel(f"localhost:{app.port}", credentials) as channel:
            stub = inference_grpc.InferenceServiceStub(channel)
            response = await stub.Generate(
                request_of(), metadata=(("authorization", f"Bearer {ADMIN_KEY}"),), timeout=10
            )
        assert response.model == "tiny"
    finally:
        await app.stop()


def _self_signed(folder):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "public.crt", folder / "public.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


async def test_a_second_instance_on_the_data_directory_is_refused(gateway, settings):
    second = GatewayApp(settings())
    with pytest.raises(DataDirectoryInUseError):
        await second.start()
    await second.stop()


async def test_a_taken_port_is_refused(gateway, settings, tmp_path, certificates):
    home = tmp_path / "second"
    home.mkdir()
    (home / "certs").symlink_to(certificates)
    changed = _listening_on(settings(), f"127.0.0.1:{gateway.port}")
    second = GatewayApp(changed.model_copy(update={"home": home}))
    with pytest.raises(AddressInUseError):
        await second.start()
    await second.stop()
