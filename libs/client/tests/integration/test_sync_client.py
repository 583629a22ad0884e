import threading
from datetime import UTC, datetime, timedelta

import pytest

from caravan_client import (
    Caravan,
    Completed,
    Delta,
    Finished,
    FinishReason,
    GatewayUnreachableError,
    InternalError,
    InvalidRequestError,
    LoadPhase,
    Message,
    ModelState,
    NotFoundError,
    Sampling,
    Started,
    Tls,
    UnauthenticatedError,
    UnavailableError,
)


@pytest.fixture
def client(gateway, api_key):
    with Caravan(gateway.address) as client:
        yield client


def test_generation_is_returned_whole(client, gateway):
    generation = client.generate(
        "Once",
        model="bundled",
        sampling=Sampling(temperature=0, top_k=0, logit_bias={5: -1.5}),
        stop="\n",
        max_output_tokens=32,
        seed=9,
        labels={"team": "docs"},
    )
    assert generation.text == "Once upon a time"
    assert generation.finish_reason is FinishReason.END_OF_TEXT
    assert generation.seed == 9
    assert generation.usage.input_tokens == 4
    request = gateway.calls[0][1]
    assert request.sampling.HasField("top_k")
    assert request.sampling.logit_bias[5] == -1.5
    assert not request.sampling.HasField("top_p")
    assert list(request.stop) == ["\n"]
    assert request.labels["team"] == "docs"


def test_token_ids_are_sent_as_they_are(client, gateway):
    client.generate([1, 2, 3], model="bundled")
    assert list(gateway.calls[0][1].token_ids.ids) == [1, 2, 3]


def test_stream_gives_typed_events_and_the_whole_answer(client):
    with client.stream("Once", model="bundled") as stream:
        events = list(stream)
    assert [type(event) for event in events] == [Started, Delta, Delta, Delta, Finished, Completed]
    assert stream.generation.text == "Once upon a time"
    assert stream.generation.choices[0].token_ids == (1, 2, 3)
    assert stream.generation.request_id == stream.request_id


def test_chat_sends_roles(client, gateway):
    turns = [Message.system("Be short."), Message.user("Hi"), Message.assistant("Hello")]
    with client.stream_chat([*turns, Message.user("Bye")], model="bundled") as stream:
        assert "".join(stream.text()) == "Once upon a time"
    assert [message.role for message in gateway.calls[0][1].chat.messages] == [1, 2, 3, 2]
    assert client.chat("Hi", model="bundled").text == "Once upon a time"


def test_leaving_a_stream_cancels_the_call(client, gateway):
    gateway.endless = True
    with client.stream("Once", model="bundled") as stream:
        for event in stream:
            if isinstance(event, Delta):
                break
    assert gateway.left.wait(10)
    assert list(stream) == []


def test_closing_a_stream_from_another_thread_ends_its_reader(client, gateway):
    gateway.endless = True
    stream = client.stream("Once", model="bundled")
    arrived = threading.Event()
    texts = []

    def read():
        for text in stream.text():
            texts.append(text)
            arrived.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert arrived.wait(10)
    stream.close()
    reader.join(10)
    assert not reader.is_alive()
    assert gateway.left.wait(10)


def test_stream_without_its_last_event_is_an_error(client, gateway):
    gateway.without_end = True
    with pytest.raises(InternalError, match="INVALID_ANSWER"):
        list(client.stream("Once", model="bundled"))


def test_rich_status_becomes_a_typed_error(client, gateway, reason_failure):
    gateway.failures.append(
        reason_failure("MODEL_NOT_FOUND", "No such model.", metadata={"model": "x"})
    )
    with pytest.raises(NotFoundError) as caught:
        client.generate("Once", model="x", request_id="my-call")
    error = caught.value
    assert (error.reason, error.code) == ("MODEL_NOT_FOUND", "NOT_FOUND")
    assert error.metadata == {"model": "x"}
    assert error.request_id == "my-call"


def test_wrong_key_is_unauthenticated_and_not_shown(gateway):
    with (
        Caravan(gateway.address, api_key="wrong-key-77") as client,
        pytest.raises(UnauthenticatedError) as caught,
    ):
        client.status()
    assert caught.value.reason == "INVALID_CREDENTIAL"
    assert "wrong-key-77" not in f"{client!r}{caught.value!r}{caught.value.__cause__!r}"


def test_unavailable_is_repeated_with_a_request_id_of_its_own(client, gateway, reason_failure):
    gateway.failures += [reason_failure("QUEUE_FULL", retry_after_s=0.01)] * 2
    assert client.generate("Once", model="bundled").text
    ids = [metadata["x-request-id"] for _, _, metadata in gateway.calls]
    assert len(set(ids)) == 3


def test_stream_is_repeated_before_its_first_event(client, gateway, reason_failure):
    gateway.failures.append(reason_failure("MODEL_LOADING", retry_after_s=0.01))
    with client.stream("Once", model="bundled") as stream:
        assert len(list(stream)) == 6
    assert len(gateway.calls) == 2


def test_stream_is_not_repeated_after_its_first_event(client, gateway, reason_failure):
    gateway.fail_after = reason_failure("WORKER_DIED", retry_after_s=0.01)
    events = []
    with pytest.raises(UnavailableError, match="WORKER_DIED"):
        events.extend(client.stream("Once", model="bundled"))
    assert len(gateway.calls) == 1


def test_repeating_is_bounded(gateway, api_key, reason_failure):
    gateway.failures += [reason_failure("QUEUE_FULL", retry_after_s=0.01)] * 5
    with Caravan(gateway.address, max_retries=1) as client, pytest.raises(UnavailableError):
        client.status()
    assert len(gateway.calls) == 2


def test_wait_beyond_the_timeout_is_not_begun(gateway, api_key, reason_failure):
    gateway.failures += [reason_failure("QUEUE_FULL", retry_after_s=20)] * 2
    with Caravan(gateway.address, timeout_s=10) as client, pytest.raises(UnavailableError) as error:
        client.status()
    assert error.value.retry_after_s == 20
    assert len(gateway.calls) == 1


def test_creating_again_after_unavailable_keeps_the_idempotency_key(
    client, gateway, reason_failure
):
    gateway.failures.append(reason_failure("DRAINING", retry_after_s=0.01))
    client.principals.create("alice", roles=["user"])
    keys = [request.idempotency_key for _, request, _ in gateway.calls]
    assert len(keys) == 2
    assert keys[0] == keys[1] != ""


def test_refused_connection_says_where_and_what_to_do(caravan_home):
    client = Caravan("127.0.0.1:1", api_key="k", max_retries=0)
    with client, pytest.raises(GatewayUnreachableError) as caught:
        client.status()
    assert "127.0.0.1:1" in str(caught.value)
    assert "make run" in str(caught.value)


def test_timeout_says_how_long_it_waited(client, gateway):
    gateway.endless = True
    with pytest.raises(Exception, match=r"within 0\.5 s") as caught:
        list(client.stream("Once", model="bundled", timeout_s=0.5))
    assert caught.value.code == "DEADLINE_EXCEEDED"


def test_values_that_cannot_be_sent_are_refused_with_their_field(client, gateway):
    with pytest.raises(InvalidRequestError) as caught:
        client.generate("Once", model="bundled", sampling=Sampling(top_k=-1))
    assert caught.value.field_violations[0].field == "sampling.top_k"
    with pytest.raises(InvalidRequestError, match="text") as caught:
        client.generate("secret prompt \udcff", model="bundled")
    assert "secret prompt" not in repr(caught.value)
    with pytest.raises(InvalidRequestError, match="REQUEST_TOO_LARGE"):
        client.generate("x" * 5_000_000, model="bundled")
    assert gateway.calls == []


def test_lists_are_read_to_their_last_page(client, gateway):
    assert [model.name for model in client.models.list()] == ["alpha", "beta", "gamma"]
    assert len(gateway.calls) == 2
    assert [role.name for role in client.roles.list()] == ["admin", "operator", "user"]


def test_models_are_read_loaded_and_unloaded(client):
    model = client.models.get("alpha")
    assert model.details.num_cells == 8192
    assert model.replicas[0].process_id == 4242
    assert client.models.get("beta").details is None
    with client.models.load("alpha") as steps:
        phases = [step.phase for step in steps]
    assert phases[-1] is LoadPhase.READY
    result = client.models.unload("alpha", drain_timeout_s=1.5)
    assert (result.model.state, result.num_ended_requests) == (ModelState.UNLOADED, 2)


def test_principals_and_keys_are_created_listed_and_revoked(client, gateway):
    client.principals.create("alice", roles=["user"])
    assert client.principals.get("alice").roles == ("user",)
    assert [principal.name for principal in client.principals.list()] == ["alice"]
    created = client.keys.create("alice", description="ci", time_to_live=timedelta(days=1))
    assert created.secret == "crv_secret_1"
    assert "crv_secret_1" not in repr(created)
    assert created.key.expire_time == datetime.fromtimestamp(1_700_086_400, UTC)
    assert client.keys.list(principal="alice") == [created.key]
    assert client.keys.revoke(created.key.id).state == "revoked"


def test_status_tells_of_dependencies(client):
    status = client.status()
    assert [entry.reachable for entry in status.dependencies] == [True, False]
    assert status.num_spooled_records == 5


def test_tls_gateway_is_reached_with_its_ca(tls_gateway, caravan_home, api_key):
    ca = caravan_home / "certs" / "ca.crt"
    address = tls_gateway.address.replace("127.0.0.1", "localhost")
    with Caravan(address, tls=Tls(ca)) as client:
        assert client.status().serving


@pytest.mark.parametrize(
    ("tls", "fault"),
    [
        (True, "not trusted"),
        (False, "may want TLS"),
        (Tls(server_name="other"), "not trusted|another name"),
    ],
)
def test_tls_mismatch_is_explained(tls_gateway, api_key, tls, fault):
    with (
        Caravan(tls_gateway.address, tls=tls, max_retries=0) as client,
        pytest.raises(UnavailableError, match=fault),
    ):
        client.status()


def test_texts_become_tokens_and_back(client, gateway):
    assert client.tokenize("Once upon", model="alpha") == (5, 6, 7)
    assert client.tokenize([Message.user("Hi")], model="alpha") == (5, 6, 7)
    assert gateway.calls[-1][1].chat.messages[0].content == "Hi"
    assert client.detokenize([1, 2], model="alpha") == "ab"


def test_choices_and_logprobs_are_in_the_answer(client):
    answer = client.generate("Once", model="alpha", num_choices=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    with client.stream("Once", model="alpha", logprobs=1) as stream:
        text = "".join(stream.text())
    (choice,) = stream.generation.choices
    assert text == "Once upon a time"
    assert [one.top[0].token_id for one in choice.logprobs] == [1, 2, 3]
