"""Texts and tokens over a real worker."""

import grpc
import pytest

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.inference.v1 import generation_pb2, tokenization_pb2
from caravan_rpckit.details import error_details


async def tokenize(view, model="tiny", **fields):
    worker = await view.worker()
    request = tokenization_pb2.TokenizeRequest(model=model, **fields)
    answer = await worker.Tokenize(worker_pb.TokenizeRequest(request=request))
    return list(answer.response.ids)


async def detokenize(view, ids, model="tiny"):
    worker = await view.worker()
    request = tokenization_pb2.DetokenizeRequest(model=model, ids=ids)
    answer = await worker.Detokenize(worker_pb.DetokenizeRequest(request=request))
    return answer.response.text


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    return failed.value.code(), error_details(failed.value)


async def test_a_text_has_the_tokens_that_a_generation_takes(view):
    ids = await tokenize(view, text="Once upon a time")
    answers = await view.run(text="Once upon a time", max_output_tokens=1)
    assert answers[0].event.started.input_tokens == len(ids)
    assert (await detokenize(view, ids)).strip() == "Once upon a time"


async def test_a_chat_is_rendered_as_for_a_generation(view):
    chat = generation_pb2.Chat(
        messages=[
            generation_pb2.ChatMessage(role=generation_pb2.CHAT_ROLE_USER, content="<|im_end|>")
        ]
    )
    ids = await tokenize(view, chat=chat)
    answers = await view.run(chat=chat, max_output_tokens=1)
    assert answers[0].event.started.input_tokens == len(ids)


async def test_a_text_from_delta_tokens_is_the_text_of_the_deltas(view):
    answers = await view.run(max_output_tokens=20)
    deltas = [answer.event.delta for answer in answers if answer.event.HasField("delta")]
    ids = [token for delta in deltas for token in delta.token_ids]
    assert await detokenize(view, ids) == "".join(delta.text for delta in deltas)


async def test_no_tokens_have_no_text(view):
    assert await detokenize(view, []) == ""


async def test_nothing_to_split_is_refused(view):
    code, details = await refusal(tokenize(view))
    assert (code, details.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "EMPTY_INPUT")


async def test_an_id_outside_the_vocabulary_is_refused_with_its_place(view):
    code, details = await refusal(detokenize(view, [300, 2**32 - 1]))
    assert (code, details.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOKEN_OUT_OF_RANGE")
    assert details.metadata["index"] == "1"


async def test_too_many_tokens_are_refused(view):
    code, details = await refusal(detokenize(view, [300] * (2**20 + 1)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.field_violations[0].field == "ids"


async def test_another_model_is_not_served(view):
    for call in (tokenize(view, model="other", text="a"), detokenize(view, [300], model="other")):
        _, details = await refusal(call)
        assert details.reason == "WORKER_DIED"


async def test_only_gateways_may_ask(shared_host, view_of):
    engine = await view_of(shared_host, "engine")
    code, _ = await refusal(tokenize(engine, text="a"))
    assert code is grpc.StatusCode.PERMISSION_DENIED
