import grpc
import pytest
from gateway_client import failure_of, until

from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan.inference.v1 import tokenization_pb2 as tokenization_pb


def tokenize(client, text="hello", *, timeout=20, metadata=(), **fields):
    request = tokenization_pb.TokenizeRequest(**{"model": "tiny", "text": text, **fields})
    return client.inference.Tokenize(
        request, timeout=timeout, metadata=(*client.metadata, *metadata)
    )


def detokenize(client, ids, **fields):
    request = tokenization_pb.DetokenizeRequest(**{"model": "tiny", "ids": ids, **fields})
    return client.inference.Detokenize(request, timeout=20, metadata=client.metadata)


async def test_a_text_is_split_by_the_worker_under_the_models_own_name(client, worker):
    answer = await tokenize(client, "4", model="bundled")

    assert list(answer.ids) == [0, 1, 2, 3]
    assert worker.runs[0].request.model == "tiny"


async def test_tokens_are_written_out_by_the_worker(client, worker):
    assert (await detokenize(client, [1, 2], model="bundled")).text == "tok tok "
    assert (await detokenize(client, [])).text == ""
    assert worker.runs[0].request.model == "tiny"


async def test_the_call_keeps_its_name_and_nothing_else_of_its_metadata_reaches_the_worker(
    client, worker
):
    await tokenize(client, metadata=(("x-request-id", "split-1"), ("x-secret", "s3cret")))

    (metadata,) = worker.metadata
    assert metadata["x-request-id"] == "split-1"
    assert "authorization" not in metadata
    assert "s3cret" not in str(metadata)


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"text": ""}, "EMPTY_INPUT", "text"),
        ({"text": None, "chat": generation_pb.Chat()}, "EMPTY_INPUT", "chat.messages"),
        ({"text": None}, "INVALID_FIELD", "input"),
        ({"model": ""}, "INVALID_FIELD", "model"),
        (
            {"text": None, "chat": generation_pb.Chat(messages=[{"role": 99}])},
            "INVALID_FIELD",
            "chat.messages[0].role",
        ),
    ],
)
async def test_what_cannot_be_split_is_refused_with_its_path(client, worker, fields, reason, field):
    code, details = await failure_of(tokenize(client, **fields))

    assert (code, details.reason) == ("INVALID_ARGUMENT", reason)
    assert [violation.field for violation in details.field_violations] == [field]
    assert not worker.runs


async def test_too_many_tokens_are_refused_with_their_path(client, worker):
    code, details = await failure_of(detokenize(client, [1] * (2**20 + 1)))

    assert (code, details.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert [violation.field for violation in details.field_violations] == ["ids"]
    assert not worker.runs


async def test_an_unknown_model_is_not_found(client):
    code, details = await failure_of(tokenize(client, model="nope"))

    assert (code, details.reason) == ("NOT_FOUND", "MODEL_NOT_FOUND")


async def test_the_workers_refusal_passes_unchanged(client):
    code, details = await failure_of(tokenize(client, "refuse"))

    assert (code, details.reason) == ("INVALID_ARGUMENT", "NO_CHAT_TEMPLATE")
    assert details.metadata["model"] == "tiny"


async def test_an_answer_over_the_limit_is_refused_with_advice(start_gateway, client_of):
    client = client_of(await start_gateway(server={"max_response_bytes": 1024}))
    for call, field in ((tokenize(client, "2000"), "text"), (detokenize(client, [1] * 300), "ids")):
        code, details = await failure_of(call)
        assert (code, details.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
        assert [violation.field for violation in details.field_violations] == [field]
        assert "1024 bytes" in details.field_violations[0].description


async def test_an_answer_over_the_transports_limit_is_refused_alike(client):
    code, details = await failure_of(tokenize(client, str(5 * 2**20)))

    assert (code, details.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert details.field_violations[0].field == "text"


async def test_a_deadline_and_a_client_that_leaves_reach_the_worker(client, worker):
    code, _ = await failure_of(tokenize(client, "hang", timeout=0.3))
    assert code == "DEADLINE_EXCEEDED"
    await until(lambda: not worker.num_live, "the end upstream")

    call = tokenize(client, "hang")
    await until(lambda: worker.num_live == 1, "the worker's work")
    call.cancel()
    await until(lambda: not worker.num_live, "the end upstream")


async def test_a_worker_that_cannot_be_reached_is_a_dead_worker(start_gateway, client_of, worker):
    client = client_of(await start_gateway(failover={"timeout_s": 0.2}))
    await worker.stop()
    code, details = await failure_of(tokenize(client))

    assert (code, details.reason) == ("UNAVAILABLE", "WORKER_DIED")
    assert details.retry_after_s


async def test_calls_are_recorded_without_tokens(client, telemetry):
    await tokenize(client, metadata=(("x-request-id", "split-1"),))
    await detokenize(client, [1])
    await failure_of(tokenize(client, "refuse"))
    await until(lambda: len(telemetry.records) == 3, "the records")

    records = list(telemetry.records.values())
    service = "caravan.inference.v1.InferenceService"
    assert [record.method for record in records] == [
        f"{service}/Tokenize",
        f"{service}/Detokenize",
        f"{service}/Tokenize",
    ]
    assert records[0].request_id == "split-1"
    assert {(record.model, record.model_digest) for record in records} == {("tiny", "d" * 64)}
    assert {(record.input_tokens, record.output_tokens) for record in records} == {(0, 0)}
    assert [record.status_code for record in records] == [
        0,
        0,
        grpc.StatusCode.INVALID_ARGUMENT.value[0],
    ]
    assert records[2].error_reason == "NO_CHAT_TEMPLATE"
