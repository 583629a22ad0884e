"""Vectors over a real worker."""

import asyncio

import grpc
import numpy as np
import pytest

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.inference.v1 import embedding_pb2 as pb
from caravan.inference.v1 import generation_pb2
from caravan_rpckit.details import error_details


async def embed(view, *inputs, model="tiny", within_s=30):
    worker = await view.worker(model if model == "slow" else "tiny")
    request = pb.EmbedRequest(model=model, inputs=inputs)
    caller = worker_pb.Caller(request_id="e-1", priority=10)
    call = worker.Embed(worker_pb.EmbedRequest(request=request, caller=caller), timeout=within_s)
    return await call


def text(value):
    return pb.EmbedInput(text=value)


def tokens(*ids):
    return pb.EmbedInput(token_ids=generation_pb2.TokenIds(ids=ids))


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value.code(), error_details(failed.value)


async def test_each_input_has_a_vector_of_length_one_in_order(view):
    same = text("Once upon a time")
    answer = await embed(view, same, tokens(300, 301, 302), same)
    response = answer.response
    vectors = [np.array(each.values) for each in response.embeddings]
    assert [np.linalg.norm(each) for each in vectors] == pytest.approx([1, 1, 1], abs=1e-5)
    assert np.allclose(vectors[0], vectors[2], atol=1e-3)
    assert not np.allclose(vectors[0], vectors[1], atol=1e-2)
    assert response.pooling == pb.POOLING_MEAN
    assert (response.request_id, response.model, len(response.model_digest)) == ("e-1", "tiny", 64)
    lengths = [each.input_tokens for each in response.embeddings]
    assert lengths[1] == 3
    assert response.usage.input_tokens == sum(lengths)
    assert answer.timings.prefill_ms > 0


async def test_embedding_and_generating_share_a_worker(view):
    runs = [view.run(text=f"prompt {number}", max_output_tokens=30) for number in range(4)]
    embeds = [embed(view, *(text(f"text {n} {m}") for m in range(20))) for n in range(4)]
    answers = await asyncio.gather(*runs, *embeds)
    for events in answers[:4]:
        assert events[-1].event.completed.usage.output_tokens == 30
    alone = await embed(view, text("text 2 7"))
    together = answers[6].response.embeddings[7]
    assert np.allclose(alone.response.embeddings[0].values, together.values, atol=1e-2)


async def test_inputs_out_of_bounds_are_refused(view):
    code, details = await refusal(embed(view))
    assert (code, details.field_violations[0].field) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "inputs",
    )
    code, details = await refusal(embed(view, *[text("a")] * 257))
    assert details.field_violations[0].field == "inputs"
    for empty in (text(""), pb.EmbedInput(), tokens()):
        code, details = await refusal(embed(view, text("a"), empty))
        assert (code, details.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "EMPTY_INPUT")
    code, details = await refusal(embed(view, tokens(2**31)))
    assert details.reason == "TOKEN_OUT_OF_RANGE"


async def test_an_input_longer_than_the_context_is_refused_and_the_others_with_it(view):
    code, details = await refusal(embed(view, text("a"), tokens(*[300] * 100_000)))
    assert (code, details.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "CONTEXT_LENGTH_EXCEEDED",
    )
    assert details.metadata["input_tokens"] == "100000"


async def test_a_deadline_ends_it(view):
    code, _ = await refusal(embed(view, *[text("word " * 200)] * 200, within_s=0.02))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
