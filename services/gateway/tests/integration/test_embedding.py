import pytest
from gateway_client import failure_of, until

from caravan.inference.v1 import embedding_pb2 as embedding_pb
from caravan.inference.v1 import generation_pb2 as generation_pb


def embed(client, *texts, timeout=20, metadata=(), **fields):
    inputs = [embedding_pb.EmbedInput(text=text) for text in texts]
    request = embedding_pb.EmbedRequest(**{"model": "tiny", "inputs": inputs, **fields})
    return client.inference.Embed(request, timeout=timeout, metadata=(*client.metadata, *metadata))


async def test_vectors_come_from_the_worker_under_the_models_own_name(client, worker):
    answer = await embed(client, "one", "two", model="bundled")

    assert [list(each.values) for each in answer.embeddings] == [[0.5, 0.5], [0.5, 0.5]]
    assert (answer.model, answer.pooling) == ("tiny", embedding_pb.POOLING_MEAN)
    assert answer.usage.input_tokens == 6
    assert worker.runs[0].request.model == "tiny"


async def test_the_worker_learns_who_is_calling_and_how_urgent_it_is(client, worker):
    answer = await embed(client, "one", priority=100, metadata=(("x-request-id", "embed-1"),))

    (run,) = worker.runs
    assert (run.caller.tenant, run.caller.principal) == ("default", "alice")
    assert run.caller.priority == run.request.priority == 50
    assert run.caller.request_id == answer.request_id == "embed-1"
    assert "authorization" not in worker.metadata[0]


@pytest.mark.parametrize(
    ("fields", "reason", "paths"),
    [
        ({"inputs": []}, "EMPTY_INPUT", ["inputs"]),
        ({"inputs": [{"text": "a"}] * 257}, "INVALID_FIELD", ["inputs"]),
        (
            {"inputs": [{"text": "a"}, {"text": ""}, {"token_ids": generation_pb.TokenIds()}]},
            "EMPTY_INPUT",
            ["inputs[1].text", "inputs[2].token_ids.ids"],
        ),
        ({"inputs": [{"text": "a"}] * 3 + [{}]}, "INVALID_FIELD", ["inputs[3].input"]),
        ({"priority": 101}, "INVALID_FIELD", ["priority"]),
        ({"labels": {"": "x"}}, "INVALID_FIELD", ["labels"]),
        ({"model": ""}, "INVALID_FIELD", ["model"]),
    ],
)
async def test_what_cannot_be_embedded_is_refused_with_its_path(
    client, worker, fields, reason, paths
):
    code, details = await failure_of(embed(client, "a", **fields))

    assert (code, details.reason) == ("INVALID_ARGUMENT", reason)
    assert [violation.field for violation in details.field_violations] == paths
    assert not worker.runs


async def test_an_answer_over_the_limit_is_refused_with_advice(client):
    code, details = await failure_of(embed(client, *["16384"] * 128))

    assert (code, details.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert [violation.field for violation in details.field_violations] == ["inputs"]


async def test_the_workers_refusal_passes_unchanged(client):
    code, details = await failure_of(embed(client, "refuse"))

    assert (code, details.reason) == ("INVALID_ARGUMENT", "NO_CHAT_TEMPLATE")


async def test_a_deadline_and_a_client_that_leaves_reach_the_worker(client, worker):
    code, _ = await failure_of(embed(client, "hang", timeout=0.3))
    assert code == "DEADLINE_EXCEEDED"
    await until(lambda: not worker.num_live, "the end upstream")

    call = embed(client, "hang")
    await until(lambda: worker.num_live == 1, "the worker's work")
    call.cancel()
    await until(lambda: not worker.num_live, "the end upstream")


async def test_a_call_is_recorded_with_its_input_tokens(client, telemetry):
    await embed(client, "one", "two", priority=20, labels={"team": "a"})
    await until(lambda: telemetry.records, "the record")

    (record,) = telemetry.records.values()
    assert record.method == "caravan.inference.v1.InferenceService/Embed"
    assert (record.model, record.model_digest) == ("tiny", "d" * 64)
    assert (record.input_tokens, record.output_tokens, record.queue_ms) == (6, 0, 2.5)
    assert (record.priority, dict(record.labels)) == (20, {"team": "a"})
    assert not record.finish_reasons
