import asyncio
import time

import pytest
from gateway_client import ADMIN_KEY, KEY, failure_of, metric, until

from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.inference.v1 import embedding_pb2 as embedding_pb
from caravan.inference.v1 import tokenization_pb2 as tokenization_pb
from caravan.model.v1 import model_service_pb2 as model_pb
from caravan.policy.v1 import policy_admin_service_pb2 as admin_pb
from caravan_rpckit.errors import Reason

# Far above what it takes; a busy machine must not fail a test.
PATIENCE_S = 10
REFUSED = ("UNAUTHENTICATED", "INVALID_CREDENTIAL")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY} more",
        "Bearer " + "x" * 5000,
        "Bearer cvn_wrong",
    ],
)
async def test_no_or_a_wrong_credential_is_refused_with_one_text(client, header):
    metadata = (("authorization", header),) if header is not None else (("x-a", "b"),)

    code, details = await failure_of(client.generate(metadata=metadata))

    assert (code, details.reason) == REFUSED
    assert "authorization: Bearer" in details.message
    assert not details.metadata


async def test_the_scheme_may_be_written_in_any_case(client):
    await client.generate(metadata=(("authorization", f"bEARER {KEY}"),))


@pytest.mark.parametrize("reason", [Reason.KEY_EXPIRED, Reason.KEY_REVOKED])
async def test_a_key_that_was_right_once_has_its_own_reason(client, policy, reason):
    policy.keys[KEY].refusal = reason

    code, details = await failure_of(client.generate())

    assert (code, details.reason) == ("UNAUTHENTICATED", reason)


async def test_policy_is_asked_once_for_a_key_and_a_question(client, policy, gateway):
    for _ in range(5):
        await client.generate()

    assert (policy.num_authentications, policy.num_checks) == (1, 1)
    series = 'caravan_gateway_policy_lookups_total{kind="authentication",result="hit"}'
    assert await metric(gateway, series) == 4


async def test_concurrent_calls_with_a_new_key_ask_policy_once(client, policy):
    policy.hold = asyncio.Event()
    calls = [asyncio.ensure_future(client.generate()) for _ in range(20)]
    await until(lambda: policy.num_authentications == 1, "the question")
    await asyncio.sleep(0.1)
    policy.hold.set()

    await asyncio.gather(*calls)

    assert policy.num_authentications == 1


async def test_a_caller_that_leaves_does_not_take_the_answer_from_the_others(client, policy):
    policy.hold = asyncio.Event()
    first = client.generate()
    leaving = asyncio.ensure_future(first)
    await until(lambda: policy.num_authentications == 1, "the question")
    staying = asyncio.ensure_future(client.generate())
    await asyncio.sleep(0.05)
    first.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    policy.hold.set()

    assert (await staying).request_id
    assert policy.num_authentications == 1


async def test_random_keys_fill_no_memory(start_gateway, client_of, gateway):
    app = await _only(start_gateway, gateway, policy={"refusal_entries": 5})
    client = client_of(app)
    for number in range(50):
        metadata = (("authorization", f"Bearer cvn_{number}"),)
        assert (await failure_of(client.generate(metadata=metadata)))[0] == "UNAUTHENTICATED"

    assert await metric(app, "caravan_gateway_credential_cache_entries") == 0


async def _only(start_gateway, gateway, **changes):
    """Another gateway in place of the one that the fixture started."""
    await gateway.drain()
    await gateway.stop()
    return await start_gateway(**changes)


async def test_a_missing_permission_is_denied_before_the_model_is_looked_up(client, policy):
    policy.keys[KEY].permissions = {"health"}

    for model in ("tiny", "bundled", "missing", "", "x" * 5000):
        code, details = await failure_of(client.generate("", model=model))
        assert (code, details.reason) == ("PERMISSION_DENIED", "PERMISSION_DENIED")
        assert details.metadata == {"permission": "inference"}


async def test_the_question_names_the_model_by_its_own_name(client, policy):
    await client.generate(model="bundled")
    await failure_of(client.generate(model="missing"))

    assert policy.questions == [("inference", "model/tiny"), ("inference", "model/missing")]


async def test_a_change_of_policy_voids_decisions(client, policy):
    await client.generate()
    policy.keys[KEY].permissions = set()
    policy.announce()

    async with asyncio.timeout(PATIENCE_S):
        while await _code_of(client.generate()) != "PERMISSION_DENIED":
            pass


async def test_a_revoked_key_stops_working_at_once(client, policy):
    await client.generate()
    policy.revoke(KEY)

    async with asyncio.timeout(PATIENCE_S):
        while await _code_of(client.generate()) != "UNAUTHENTICATED":
            pass


@pytest.mark.parametrize("text", ["hang", "flood"])
async def test_running_streams_of_a_revoked_key_end_at_once(client, policy, worker, admin, text):
    streams = [client.stream(text) for _ in range(3)]
    other = admin.stream("hang")
    for stream in (*streams, other):
        await anext(aiter(stream))
    policy.revoke(KEY)

    async with asyncio.timeout(PATIENCE_S):
        while worker.num_live > 1:
            await asyncio.sleep(0.01)
        for stream in streams:
            code, details = await failure_of(stream)
            assert (code, details.reason) == ("UNAUTHENTICATED", "KEY_REVOKED")
    other.cancel()


async def test_a_running_unary_call_of_a_revoked_key_ends(client, policy, worker):
    call = asyncio.ensure_future(failure_of(client.generate("hang")))
    await until(lambda: worker.num_live == 1, "the run")

    policy.revoke(KEY)

    code, details = await call
    assert (code, details.reason) == ("UNAUTHENTICATED", "KEY_REVOKED")
    await until(lambda: worker.num_live == 0, "its end")


async def test_a_revocation_while_policy_answers_is_not_missed(client, policy, worker):
    """The answer was made before the revocation and arrives after it."""
    policy.hold_answer = asyncio.Event()
    call = asyncio.ensure_future(failure_of(client.generate()))
    await until(lambda: policy.num_authentications == 1, "the question")
    policy.revoke(KEY)
    await asyncio.sleep(0.1)
    policy.hold_answer.set()

    code, details = await call
    assert (code, details.reason) == ("UNAUTHENTICATED", "KEY_REVOKED")
    assert not worker.runs


async def test_a_key_expires_exactly_although_it_is_remembered(client, policy):
    policy.keys[KEY].expire_time_s = time.time() + 2.0
    await client.generate()
    await asyncio.sleep(2.05)

    code, details = await failure_of(client.generate())

    assert (code, details.reason) == ("UNAUTHENTICATED", "KEY_EXPIRED")


async def test_known_callers_go_on_while_policy_is_away_until_their_time_is_over(
    start_gateway, client_of, policy
):
    app = await start_gateway(policy={"cache_ttl_s": 3})
    client, stranger = client_of(app), client_of(app, ADMIN_KEY)
    await client.generate()
    began = time.monotonic()
    await policy.stop()
    await until(lambda: not app.is_ready, "the loss")

    await client.generate()
    code, details = await failure_of(stranger.generate())
    assert (code, details.reason) == ("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE")
    assert details.metadata == {"service": "policy"}
    assert details.retry_after_s > 0

    await asyncio.sleep(max(0, began + 3.1 - time.monotonic()))
    code, details = await failure_of(client.generate())
    assert (code, details.reason) == ("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE")


async def test_everything_is_asked_again_after_a_gap(client, gateway, policy):
    await client.generate()
    await policy.stop()
    await until(lambda: not gateway.is_ready, "the loss")
    policy.keys[KEY].refusal = Reason.KEY_REVOKED
    await policy.start()
    await until(lambda: gateway.is_ready, "the news")

    code, details = await failure_of(client.generate())

    assert (code, details.reason) == ("UNAUTHENTICATED", "KEY_REVOKED")


async def test_streams_whose_key_was_revoked_in_a_gap_end_after_it(
    client, admin, gateway, policy, worker
):
    stream, other = client.stream("hang"), admin.stream("hang")
    await anext(aiter(stream))
    await anext(aiter(other))
    await policy.stop()
    await until(lambda: not gateway.is_ready, "the loss")
    policy.keys[KEY].refusal = Reason.KEY_REVOKED
    await policy.start()

    code, details = await failure_of(stream)

    assert (code, details.reason) == ("UNAUTHENTICATED", "KEY_REVOKED")
    await until(lambda: worker.num_live == 1, "its end")
    other.cancel()


async def test_a_gateway_starts_without_policy_and_becomes_ready_with_it(
    start_gateway, client_of, policy
):
    await policy.stop()
    app = await start_gateway(wait=False)
    client = client_of(app)

    code, details = await failure_of(client.generate())
    assert (code, details.reason) == ("UNAVAILABLE", "DEPENDENCY_UNAVAILABLE")

    await policy.start()
    await until(lambda: app.is_ready, "readiness")
    await client.generate()


NEEDS = {
    "Embed": ({"inference"},),
    "Tokenize": ({"inference"},),
    "Detokenize": ({"inference"},),
    "ListModels": ({"inference"}, {"health"}),
    "GetModel": ({"inference"}, {"health"}),
    "LoadModel": ({"models"},),
    "UnloadModel": ({"models"},),
    "CreateApiKey": ({"policy"},),
    "GetGatewayStatus": ({"health"},),
    "DropPages": ({"models"},),
    "SetPageBudgets": ({"models"},),
    "ListCheckpoints": ({"models"},),
    "PruneCheckpoints": ({"models"},),
    "GetWorkerStats": ({"metrics"},),
}
EVERYTHING = {"inference", "health", "models", "policy", "metrics"}


def _call(client, method):
    calls = {
        "Embed": lambda: client.inference.Embed(
            embedding_pb.EmbedRequest(model="tiny", inputs=[{"text": "a"}]),
            metadata=client.metadata,
        ),
        "Tokenize": lambda: client.inference.Tokenize(
            tokenization_pb.TokenizeRequest(model="tiny", text="a"), metadata=client.metadata
        ),
        "Detokenize": lambda: client.inference.Detokenize(
            tokenization_pb.DetokenizeRequest(model="tiny", ids=[1]), metadata=client.metadata
        ),
        "ListModels": lambda: client.models.ListModels(
            model_pb.ListModelsRequest(), metadata=client.metadata
        ),
        "GetModel": lambda: client.models.GetModel(
            model_pb.GetModelRequest(model="tiny"), metadata=client.metadata
        ),
        "LoadModel": lambda: client.models.LoadModel(
            model_pb.LoadModelRequest(model="tiny"), metadata=client.metadata
        ),
        "UnloadModel": lambda: client.models.UnloadModel(
            model_pb.UnloadModelRequest(model="tiny"), metadata=client.metadata
        ),
        "CreateApiKey": lambda: client.policy.CreateApiKey(
            admin_pb.CreateApiKeyRequest(principal="bob"), metadata=client.metadata
        ),
        "GetGatewayStatus": lambda: client.gateway.GetGatewayStatus(
            gateway_pb.GetGatewayStatusRequest(), metadata=client.metadata
        ),
        "DropPages": lambda: client.gateway.DropPages(
            gateway_pb.DropPagesRequest(tenant="acme"), metadata=client.metadata
        ),
        "SetPageBudgets": lambda: client.gateway.SetPageBudgets(
            gateway_pb.SetPageBudgetsRequest(model="tiny", host_bytes=1), metadata=client.metadata
        ),
        "ListCheckpoints": lambda: client.gateway.ListCheckpoints(
            gateway_pb.ListCheckpointsRequest(), metadata=client.metadata
        ),
        "PruneCheckpoints": lambda: client.gateway.PruneCheckpoints(
            gateway_pb.PruneCheckpointsRequest(), metadata=client.metadata
        ),
        "GetWorkerStats": lambda: client.gateway.GetWorkerStats(
            gateway_pb.GetWorkerStatsRequest(), metadata=client.metadata
        ),
    }
    return calls[method]()


@pytest.mark.parametrize("method", NEEDS)
async def test_each_method_needs_its_permission(client, policy, method):
    key = policy.keys[KEY]
    key.permissions = EVERYTHING - set().union(*NEEDS[method])
    code, details = await failure_of(_call(client, method))
    assert (code, details.reason) == ("PERMISSION_DENIED", "PERMISSION_DENIED")

    for permissions in NEEDS[method]:
        key.permissions = permissions
        policy.announce()
        async with asyncio.timeout(PATIENCE_S):
            while await _code_of(_call(client, method)) == "PERMISSION_DENIED":
                pass


async def _code_of(call):
    try:
        return (await failure_of(call))[0]
    except AssertionError:
        return "OK"


async def test_each_method_needs_a_key(gateway, client_of):
    stranger = client_of(gateway, None)
    for method in NEEDS:
        code, details = await failure_of(_call(stranger, method))
        assert (code, details.reason) == REFUSED
