"""The whole service over gRPC with mutual TLS, in one process."""

import asyncio
import json
import logging
import stat
import urllib.request

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.policy.v1 import authentication_service_pb2 as authentication_pb
from caravan.policy.v1 import authorization_service_pb2 as authorization_pb
from caravan.policy.v1 import policy_admin_service_pb2 as admin_pb
from caravan.policy.v1 import principal_pb2 as principal_pb
from caravan_policy.app import PolicyApp
from caravan_policy.domain.api_keys import Credential
from caravan_rpckit.details import error_details
from caravan_testkit.waiting import wait_until_async

Status = grpc.StatusCode


async def _refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    details = error_details(caught.value)
    return caught.value.code(), details


async def _authenticate(gateway, credential):
    request = authentication_pb.AuthenticateRequest(credential=credential)
    return await gateway.authentication.Authenticate(request)


async def _check(gateway, principal, permission, resource="model/m"):
    request = authorization_pb.CheckPermissionRequest(
        tenant="default", principal=principal, permission=permission, resource=resource
    )
    return (await gateway.authorization.CheckPermission(request)).allowed


@pytest.fixture
async def alice_key(gateway):
    await gateway.admin.CreatePrincipal(
        admin_pb.CreatePrincipalRequest(name="alice", roles=["user"])
    )
    return await gateway.admin.CreateApiKey(admin_pb.CreateApiKeyRequest(principal="alice"))


async def _watch(gateway):
    """A watcher that has read its first event."""
    stream = gateway.authorization.WatchPolicy(authorization_pb.WatchPolicyRequest())
    return stream, await stream.read()


async def test_admin_key_of_the_first_start_authenticates_the_administrator(
    gateway, admin_credential, home
):
    found = await _authenticate(gateway, admin_credential)
    assert found.principal.name == "admin"
    assert found.principal.tenant == "default"
    assert list(found.principal.roles) == ["admin"]
    assert found.principal.priority_cap == 100
    assert found.key_id in admin_credential
    assert not found.HasField("expire_time")
    assert found.policy_version == 1
    assert stat.S_IMODE((home / "admin.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("credential", ["", "nonsense", Credential.mint().text])
async def test_unknown_credential_is_refused_with_one_reason_and_text(gateway, credential):
    code, details = await _refused(_authenticate(gateway, credential))
    assert code is Status.UNAUTHENTICATED
    assert details.reason == "INVALID_CREDENTIAL"
    assert details.message == "A valid credential is needed: authorization: Bearer <API key>."
    assert details.metadata == {}


async def test_expired_and_revoked_keys_have_their_own_reasons(gateway, alice_key):
    request = admin_pb.CreateApiKeyRequest(principal="alice", time_to_live=Duration(seconds=1))
    short = await gateway.admin.CreateApiKey(request)
    assert (await _authenticate(gateway, short.secret)).HasField("expire_time")
    await gateway.admin.RevokeApiKey(admin_pb.RevokeApiKeyRequest(id=alice_key.api_key.id))
    code, details = await _refused(_authenticate(gateway, alice_key.secret))
    assert (code, details.reason) == (Status.UNAUTHENTICATED, "KEY_REVOKED")

    async def expired():
        try:
            await _authenticate(gateway, short.secret)
        except grpc.aio.AioRpcError as error:
            return error_details(error).reason
        return None

    assert await wait_until_async(expired, timeout_s=10, what="expiry") == "KEY_EXPIRED"


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        ("admin", {"inference", "metrics", "health", "models", "policy"}),
        ("operator", {"inference", "metrics", "health"}),
        ("user", {"inference"}),
        ("readonly", {"metrics", "health"}),
    ],
)
async def test_built_in_roles_allow_what_they_say(gateway, role, allowed):
    request = admin_pb.CreatePrincipalRequest(name=f"a-{role}", roles=[role])
    await gateway.admin.CreatePrincipal(request)
    permissions = ["inference", "metrics", "health", "models", "policy"]
    for resource in ("model/m", "*"):
        found = {p for p in permissions if await _check(gateway, f"a-{role}", p, resource)}
        assert found == allowed


async def test_unknown_principal_is_denied_not_refused(gateway):
    assert not await _check(gateway, "nobody", "inference")


async def test_empty_question_is_refused_with_every_field(gateway):
    request = authorization_pb.CheckPermissionRequest()
    code, details = await _refused(gateway.authorization.CheckPermission(request))
    assert (code, details.reason) == (Status.INVALID_ARGUMENT, "INVALID_FIELD")
    assert [violation.field for violation in details.field_violations] == [
        "tenant",
        "principal",
        "permission",
        "resource",
    ]


async def test_watcher_sees_the_version_then_changes_with_the_revoked_keys(gateway):
    stream, first = await _watch(gateway)
    assert (first.policy_version, list(first.revoked_key_ids)) == (1, [])
    await gateway.admin.CreatePrincipal(admin_pb.CreatePrincipalRequest(name="bob", roles=["user"]))
    key = await gateway.admin.CreateApiKey(admin_pb.CreateApiKeyRequest(principal="bob"))
    await gateway.admin.RevokeApiKey(admin_pb.RevokeApiKeyRequest(id=key.api_key.id))
    events = [await stream.read() for _ in range(3)]
    assert [event.policy_version for event in events] == [2, 3, 4]
    assert [list(event.revoked_key_ids) for event in events] == [[], [], [key.api_key.id]]
    stream.cancel()


async def test_watchers_are_bounded_and_places_come_back(gateway, application):
    streams = [(await _watch(gateway))[0] for _ in range(3)]
    code, details = await _refused(
        gateway.authorization.WatchPolicy(authorization_pb.WatchPolicyRequest()).read()
    )
    assert (code, details.reason) == (Status.UNAVAILABLE, "QUEUE_FULL")
    assert details.retry_after_s > 0
    streams[0].cancel()

    async def admitted():
        try:
            return (await _watch(gateway))[0]
        except grpc.aio.AioRpcError:
            return None

    streams.append(await wait_until_async(admitted, timeout_s=10, what="a free place"))
    for stream in streams:
        stream.cancel()


async def test_watchers_are_sent_away_when_the_service_drains(settings, connect):
    application = PolicyApp(settings)
    await application.start()
    try:
        stream, _ = await _watch(connect(application.port))
        draining = asyncio.create_task(application.drain())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        await draining
    finally:
        await application.stop()
    assert caught.value.code() is Status.UNAVAILABLE
    assert error_details(caught.value).reason == "DRAINING"


async def test_created_key_is_shown_once_and_listed_without_its_secret(gateway, alice_key):
    assert alice_key.secret.startswith(f"cvn_{alice_key.api_key.id}_")
    assert alice_key.api_key.state == principal_pb.API_KEY_STATE_ACTIVE
    listed = await gateway.admin.ListApiKeys(admin_pb.ListApiKeysRequest(principal="alice"))
    assert [key.id for key in listed.api_keys] == [alice_key.api_key.id]
    assert alice_key.secret.split("_")[2] not in str(listed)


async def test_secret_of_a_repeated_creation_is_not_shown_again(gateway, alice_key):
    request = admin_pb.CreateApiKeyRequest(principal="alice", idempotency_key="once")
    first = await gateway.admin.CreateApiKey(request)
    code, details = await _refused(gateway.admin.CreateApiKey(request))
    assert (code, details.reason) == (Status.ALREADY_EXISTS, "ALREADY_EXISTS")
    assert details.metadata == {"resource": "api_key", "name": first.api_key.id}


async def test_principals_are_paged(gateway):
    for name in ("p1", "p2", "p3"):
        request = admin_pb.CreatePrincipalRequest(name=name, roles=["user", "readonly"])
        await gateway.admin.CreatePrincipal(request)
    names, token = [], ""
    while True:
        request = admin_pb.ListPrincipalsRequest(page_size=3, page_token=token)
        page = await gateway.admin.ListPrincipals(request)
        names += [principal.name for principal in page.principals]
        token = page.next_page_token
        if not token:
            break
    assert names == ["admin", "p1", "p2", "p3"]
    assert list(page.principals[0].roles) == ["readonly", "user"]


async def test_token_of_another_list_is_refused(gateway):
    request = admin_pb.ListRolesRequest(page_size=1)
    token = (await gateway.admin.ListRoles(request)).next_page_token
    code, details = await _refused(
        gateway.admin.ListPrincipals(admin_pb.ListPrincipalsRequest(page_token=token))
    )
    assert (code, details.reason) == (Status.INVALID_ARGUMENT, "INVALID_FIELD")
    assert [violation.field for violation in details.field_violations] == ["page_token"]


async def test_roles_are_listed_with_permissions_and_caps(gateway):
    roles = (await gateway.admin.ListRoles(admin_pb.ListRolesRequest())).roles
    assert {(role.name, tuple(role.permissions), role.priority_cap) for role in roles} == {
        ("admin", ("*",), 100),
        ("operator", ("health", "inference", "metrics"), 50),
        ("user", ("inference",), 10),
        ("readonly", ("health", "metrics"), 1),
    }


async def test_unknown_and_taken_names_are_told_apart(gateway, alice_key):
    admin = gateway.admin
    for call, code, reason in (
        (
            admin.GetPrincipal(admin_pb.GetPrincipalRequest(name="nobody")),
            Status.NOT_FOUND,
            "RESOURCE_NOT_FOUND",
        ),
        (
            admin.RevokeApiKey(admin_pb.RevokeApiKeyRequest(id="abcdefghijkl")),
            Status.NOT_FOUND,
            "RESOURCE_NOT_FOUND",
        ),
        (
            admin.CreatePrincipal(admin_pb.CreatePrincipalRequest(name="x", roles=["wizard"])),
            Status.NOT_FOUND,
            "RESOURCE_NOT_FOUND",
        ),
        (
            admin.CreatePrincipal(admin_pb.CreatePrincipalRequest(name="alice", roles=["user"])),
            Status.ALREADY_EXISTS,
            "ALREADY_EXISTS",
        ),
    ):
        found_code, details = await _refused(call)
        assert (found_code, details.reason) == (code, reason)
    found = await admin.GetPrincipal(admin_pb.GetPrincipalRequest(name="alice"))
    assert found.principal.name == "alice"


async def test_last_admin_key_is_kept_and_revoking_twice_is_no_error(
    gateway, admin_credential, alice_key
):
    last = admin_pb.RevokeApiKeyRequest(id=admin_credential.split("_")[1])
    code, details = await _refused(gateway.admin.RevokeApiKey(last))
    assert (code, details.reason) == (Status.FAILED_PRECONDITION, "LAST_ADMIN_KEY")
    request = admin_pb.RevokeApiKeyRequest(id=alice_key.api_key.id)
    first = await gateway.admin.RevokeApiKey(request)
    assert first.api_key.state == principal_pb.API_KEY_STATE_REVOKED
    assert await gateway.admin.RevokeApiKey(request) == first


@pytest.mark.parametrize("duration", [Duration(), Duration(seconds=-1), Duration(seconds=2**62)])
async def test_impossible_time_to_live_is_refused(gateway, duration):
    request = admin_pb.CreateApiKeyRequest(principal="admin", time_to_live=duration)
    code, details = await _refused(gateway.admin.CreateApiKey(request))
    assert (code, details.reason) == (Status.INVALID_ARGUMENT, "INVALID_FIELD")
    assert [violation.field for violation in details.field_violations] == ["time_to_live"]


async def test_only_the_gateway_may_call(application, connect):
    telemetry = connect(application.port, "telemetry")
    for call in (
        _authenticate(telemetry, "x"),
        _check(telemetry, "admin", "policy"),
        telemetry.admin.ListRoles(admin_pb.ListRolesRequest()),
        telemetry.authorization.WatchPolicy(authorization_pb.WatchPolicyRequest()).read(),
    ):
        code, details = await _refused(call)
        assert (code, details.reason) == (Status.PERMISSION_DENIED, "PEER_NOT_ALLOWED")


async def test_every_service_reports_its_health(gateway):
    health = health_pb2_grpc.HealthStub(gateway.channel)
    for name in ("AuthenticationService", "AuthorizationService", "PolicyAdminService"):
        request = health_pb2.HealthCheckRequest(service=f"caravan.policy.v1.{name}")
        assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING


async def _get(port, path):
    def read():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.read().decode()

    return await asyncio.to_thread(read)


async def test_ops_port_tells_health_and_what_was_counted(
    application, gateway, admin_credential, alice_key
):
    await _authenticate(gateway, admin_credential)
    await _refused(_authenticate(gateway, "nonsense"))
    await _check(gateway, "alice", "inference")
    await _check(gateway, "alice", "policy")
    assert json.loads(await _get(application.ops_port, "/health/ready"))["status"] == "ready"
    metrics = await _get(application.ops_port, "/metrics")
    for line in (
        'caravan_policy_authentications_total{outcome="accepted"} 1.0',
        'caravan_policy_authentications_total{outcome="invalid"} 1.0',
        'caravan_policy_decisions_total{outcome="allowed"} 1.0',
        'caravan_policy_decisions_total{outcome="denied"} 1.0',
        "caravan_policy_rules 9.0",
        "caravan_policy_version 3.0",
        "caravan_policy_watchers 0.0",
        'caravan_policy_rpc_duration_seconds_count{code="ok",method="CheckPermission"} 2.0',
    ):
        assert line in metrics, line


async def test_log_says_who_administered_what(gateway, caplog):
    caller = worker_pb.Caller(tenant="default", principal="root").SerializeToString()
    with caplog.at_level(logging.INFO):
        await gateway.admin.CreatePrincipal(
            admin_pb.CreatePrincipalRequest(name="bob", roles=["user"]),
            metadata=(("caravan-caller-bin", caller),),
        )
    records = [r for r in caplog.records if r.name == "caravan.policy.admin"]
    assert [(r.caller, r.principal, r.roles) for r in records] == [
        ("default/root", "default/bob", ["user"])
    ]


async def test_secrets_are_in_no_log_metric_or_error(
    gateway, application, admin_credential, alice_key, caplog
):
    caplog.set_level(logging.DEBUG)
    wrong = admin_credential[:-4] + "ZZZZ"
    canaries = [c.split("_")[2][:30] for c in (alice_key.secret, admin_credential)]
    shown = []
    await _authenticate(gateway, alice_key.secret)
    for call in (
        _authenticate(gateway, wrong),
        gateway.admin.RevokeApiKey(admin_pb.RevokeApiKeyRequest(id=alice_key.secret)),
        gateway.admin.GetPrincipal(admin_pb.GetPrincipalRequest(name=admin_credential)),
        gateway.admin.ListPrincipals(admin_pb.ListPrincipalsRequest(page_token=wrong)),
        gateway.admin.CreateApiKey(
            admin_pb.CreateApiKeyRequest(principal="admin", idempotency_key=wrong + wrong)
        ),
    ):
        shown.append(str(await _refused(call)))
    await gateway.admin.RevokeApiKey(admin_pb.RevokeApiKeyRequest(id=alice_key.api_key.id))
    shown.append(str(await _refused(_authenticate(gateway, alice_key.secret))))
    shown.append(await _get(application.ops_port, "/metrics"))
    shown += [str(vars(record)) for record in caplog.records]
    assert len(caplog.records) > 5
    for canary in canaries:
        assert not any(canary in text for text in shown)
