"""What a caller is told who may not, or asks for what is not there; over all processes.

Bad input of every other kind is in `test_bad_input`.
"""

import time
from datetime import timedelta

import grpc
import pytest

from caravan.inference.v1 import generation_pb2 as pb
from caravan.model.v1 import model_service_pb2 as model_pb
from caravan.policy.v1 import policy_admin_service_pb2 as policy_pb
from caravan_rpckit.details import error_details
from caravan_testkit.stack import SERVICES


def request(**fields):
    defaults = {"model": "bundled", "text": "Hello", "max_output_tokens": 4}
    return pb.GenerateRequest(**{**defaults, **fields})


def refused(client, message):
    """Code and details of a refusal, the same for the unary and the streaming method."""
    answers = []
    for call in (
        lambda: client.inference.Generate(message, metadata=client.metadata, timeout=20),
        lambda: list(
            client.inference.StreamGenerate(message, metadata=client.metadata, timeout=20)
        ),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        details = error_details(caught.value)
        assert details is not None, caught.value
        answers.append((caught.value.code(), details))
    assert answers[0][0] is answers[1][0]
    assert answers[0][1].reason == answers[1][1].reason
    return answers[0]


@pytest.fixture(autouse=True)
def the_service_is_as_before(admin, stack):
    """Whoever may call is answered as before, by the same processes."""
    before = [process.pid for process in processes(stack)]
    yield
    answer = admin.inference.Generate(request(), metadata=admin.metadata, timeout=20)
    assert answer.choices[0].token_ids
    assert [process.pid for process in processes(stack)] == before


def processes(stack):
    return [*(stack.process(name) for name in SERVICES), *stack.workers()]


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Basic abc"),),
        (("authorization", "Bearer "),),
        (("authorization", "Bearer nonsense"),),
        (("authorization", "Bearer cvn_aaaaaaaa_" + "b" * 43),),
    ],
    ids=["none", "empty", "basic", "no-key", "malformed", "unknown"],
)
def test_bad_credentials_get_one_answer(connect, metadata):
    client = connect(None)
    client.metadata = metadata
    code, details = refused(client, request())
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert details.reason == "INVALID_CREDENTIAL"
    assert details.metadata == {}


def test_a_wrong_secret_gets_the_same_answer_as_no_key(connect, stack):
    wrong = stack.admin_key[:-4] + ("aaaa" if not stack.admin_key.endswith("aaaa") else "bbbb")
    _, without = refused(connect(None), request())
    _, details = refused(connect(wrong), request())
    assert (details.reason, details.message) == (without.reason, without.message)


def test_a_role_without_permission_is_denied_before_existence(admin, connect):
    client = connect(admin.create_key("viewer", "readonly").secret)
    for model in ("bundled", "no-such-model"):
        code, details = refused(client, request(model=model))
        assert code is grpc.StatusCode.PERMISSION_DENIED
        assert details.reason == "PERMISSION_DENIED"
        assert details.metadata["permission"] == "inference"


def test_a_user_may_not_manage_models_or_keys(admin, connect):
    client = connect(admin.create_key("someone", "user").secret)
    calls = (
        lambda: client.models.UnloadModel(
            model_pb.UnloadModelRequest(model="bundled"), metadata=client.metadata
        ),
        lambda: client.policy.ListApiKeys(policy_pb.ListApiKeysRequest(), metadata=client.metadata),
    )
    for call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_an_expired_key_says_so(admin, connect):
    created = admin.create_key("shortlived", "user", time_to_live=timedelta(seconds=1))
    client = connect(created.secret)
    time.sleep(1.2)
    code, details = refused(client, request())
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert details.reason == "KEY_EXPIRED"


def test_a_revoked_key_stops_working_within_a_second(admin, connect):
    created = admin.create_key("leaver", "user")
    client = connect(created.secret)
    client.inference.Generate(request(), metadata=client.metadata)
    admin.policy.RevokeApiKey(
        policy_pb.RevokeApiKeyRequest(id=created.api_key.id), metadata=admin.metadata
    )
    time.sleep(1)
    code, details = refused(client, request())
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert details.reason == "KEY_REVOKED"


def test_an_unknown_model_is_named(admin):
    code, details = refused(admin, request(model="no-such-model"))
    assert code is grpc.StatusCode.NOT_FOUND
    assert details.reason == "MODEL_NOT_FOUND"
    assert details.metadata["model"] == "no-such-model"


def test_all_faulty_fields_come_at_once(admin):
    bad = request(
        max_output_tokens=0, sampling=pb.SamplingOptions(top_p=2, min_p=2), stop=["", "x" * 300]
    )
    _, details = refused(admin, bad)
    fields = {violation.field for violation in details.field_violations}
    assert fields >= {
        "max_output_tokens",
        "sampling.top_p",
        "sampling.min_p",
        "stop[0]",
        "stop[1]",
    }
