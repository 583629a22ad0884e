import pytest

from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.inference.v1 import embedding_pb2 as embedding_pb
from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan.inference.v1 import tokenization_pb2 as tokenization_pb
from caravan.model.v1 import model_pb2 as model_pb
from caravan_client.embedding import Pooling
from caravan_client.errors import InternalError, InvalidRequestError
from caravan_client.generation import Dry, FinishReason, Message, Mirostat, Role, Sampling, Xtc
from caravan_client.operations import embeddings, gateway, inference, models, policy, tokens
from caravan_client.resources import ModelState


def test_unset_options_are_not_in_the_request():
    request = inference.text_request("a", {"model": "m"})
    assert [field.name for field, _ in request.ListFields()] == ["model", "text"]
    request = inference.text_request("a", {"model": "m", "seed": 0, "max_output_tokens": 0})
    assert request.HasField("seed")
    assert request.HasField("max_output_tokens")


def test_inputs_keep_their_kind_also_when_empty():
    assert inference.text_request("", {"model": "m"}).WhichOneof("input") == "text"
    assert inference.text_request([], {"model": "m"}).WhichOneof("input") == "token_ids"
    assert inference.chat_request([], {"model": "m"}).WhichOneof("input") == "chat"


def test_string_is_a_chat_of_one_message():
    request = inference.chat_request("Hi", {"model": "m"})
    assert [(turn.role, turn.content) for turn in request.chat.messages] == [
        (generation_pb.CHAT_ROLE_USER, "Hi")
    ]


def test_every_sampling_option_has_its_field():
    fields = {field.name for field in generation_pb.SamplingOptions.DESCRIPTOR.fields}
    assert set(Sampling.__dataclass_fields__) == fields


def test_options_of_samplers_go_where_they_belong():
    sampling = Sampling(
        typical_p=0.5,
        dry=Dry(0.8, base=2, sequence_breakers=["\n"]),
        xtc=Xtc(0.1),
        mirostat=Mirostat(),
    )
    request = inference.text_request("a", {"model": "m", "sampling": sampling})
    options = request.sampling
    assert (options.typical_p, options.dry.base, options.xtc.probability) == (
        pytest.approx(0.5),
        2,
        pytest.approx(0.1),
    )
    assert list(options.dry.sequence_breakers) == ["\n"]
    assert not options.dry.HasField("allowed_length")
    assert options.HasField("mirostat")
    plain = inference.text_request("a", {"model": "m", "sampling": Sampling()})
    assert plain.sampling.ListFields() == []


def test_samplers_have_the_fields_of_the_contract():
    for kind, message in (
        (Dry, generation_pb.DryOptions),
        (Xtc, generation_pb.XtcOptions),
        (Mirostat, generation_pb.MirostatOptions),
    ):
        assert set(kind.__dataclass_fields__) == {f.name for f in message.DESCRIPTOR.fields}


def test_choices_and_logprobs_are_asked_for_only_when_given():
    request = inference.text_request("a", {"model": "m", "num_choices": 3, "logprobs": 0})
    assert request.choice_count == 3
    assert request.HasField("logprobs")
    request = inference.text_request("a", {"model": "m"})
    assert not request.HasField("choice_count")
    assert not request.HasField("logprobs")


def test_session_is_named_only_when_given():
    named = inference.chat_request("Hello", {"model": "m", "session_id": "s-1"})
    assert named.session_id == "s-1"
    assert not inference.chat_request("Hello", {"model": "m"}).HasField("session_id")


def test_inputs_to_embed_are_texts_or_tokens():
    def inputs(value):
        operation = embeddings.embed(value, {"model": "m", "labels": {"team": "docs"}})
        request = embedding_pb.EmbedRequest.FromString(operation.payload)
        assert dict(request.labels) == {"team": "docs"}
        return [one.WhichOneof("input") for one in request.inputs]

    assert inputs("one") == ["text"]
    assert inputs(["one", [1, 2], []]) == ["text", "token_ids", "token_ids"]
    assert inputs([]) == []
    with pytest.raises(TypeError, match="seed"):
        embeddings.embed("a", {"model": "m", "seed": 1})


def test_pooling_newer_than_this_client_is_unknown():
    response = embedding_pb.EmbedResponse(pooling=99)
    response.embeddings.add(values=[0.6, 0.8], input_tokens=2)
    found = embeddings.embed("a", {"model": "m"}).decode(response.SerializeToString())
    assert found.pooling is Pooling.UNKNOWN
    assert found.embeddings[0].values == pytest.approx((0.6, 0.8))


def test_chats_and_texts_are_tokenized():
    operation = tokens.tokenize([Message.user("Hi")], "m")
    request = tokenization_pb.TokenizeRequest.FromString(operation.payload)
    assert request.chat.messages[0].content == "Hi"
    request = tokenization_pb.TokenizeRequest.FromString(tokens.tokenize("", "m").payload)
    assert request.WhichOneof("input") == "text"


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: inference.text_request("a", {"model": 3}), "model"),
        (lambda: inference.text_request("a", {"model": "m", "seed": 2**64}), "seed"),
        (lambda: inference.text_request("a", {"model": "m", "stop": [1]}), "stop"),
        (lambda: inference.text_request("a", {"model": "m", "labels": {"a": 1}}), "labels"),
        (lambda: inference.text_request([-1], {"model": "m"}), "token_ids.ids"),
        (
            lambda: inference.chat_request(
                [Message(Role.USER, "a"), Message("robot", "b")], {"model": "m"}
            ),
            "chat.messages[1].role",
        ),
        (lambda: models.unload_model("m", -1.0), "drain_timeout_ms"),
        (lambda: embeddings.embed(["a", 3], {"model": "m"}), "inputs[1].text"),
        (lambda: embeddings.embed([[-1]], {"model": "m"}), "inputs[0].token_ids.ids"),
        (lambda: tokens.detokenize([-1], "m"), "ids"),
        (
            lambda: inference.text_request(
                "a", {"model": "m", "sampling": Sampling(dry=Dry(1, allowed_length=-1))}
            ),
            "sampling.dry.allowed_length",
        ),
        (lambda: inference.text_request("a", {"model": "m", "logprobs": -1}), "logprobs.top_count"),
        (lambda: policy.create_principal("a", [None], None), "roles"),
    ],
)
def test_faulty_value_is_named_by_its_path(build, field):
    with pytest.raises(InvalidRequestError) as caught:
        build()
    assert [violation.field for violation in caught.value.field_violations] == [field]


def test_answer_that_cannot_be_decoded_is_an_internal_error():
    with pytest.raises(InternalError, match="Caravan gateway"):
        gateway.get_status().decode(b"<html>")


def test_values_newer_than_this_client_are_unknown():
    model = model_pb.Model(name="m", state=99)
    assert models.parse_model(model).state is ModelState.UNKNOWN
    response = generation_pb.GenerateResponse()
    response.choices.add(finish_reason=99)
    generation = inference.generate(generation_pb.GenerateRequest()).decode(
        response.SerializeToString()
    )
    assert generation.finish_reason is FinishReason.UNKNOWN
    stream = inference.stream_generate(generation_pb.GenerateRequest())
    assert stream.decode(generation_pb.GenerateEvent().SerializeToString()) is None


def test_times_are_utc_and_impossible_ones_are_none():
    response = gateway_pb.GetGatewayStatusResponse()
    assert gateway.get_status().decode(response.SerializeToString()).start_time is None
    response.start_time.seconds = 0
    response.start_time.SetInParent()
    start = gateway.get_status().decode(response.SerializeToString()).start_time
    assert start.isoformat() == "1970-01-01T00:00:00+00:00"
    response.start_time.seconds = 2**62
    assert gateway.get_status().decode(response.SerializeToString()).start_time is None


def test_requests_are_not_in_the_representation_of_an_operation():
    request = inference.text_request("secret prompt", {"model": "m"})
    assert "secret" not in repr(inference.generate(request))


def test_each_creating_call_has_its_own_idempotency_key():
    assert (
        policy.create_principal("a", ["user"], None).payload
        != policy.create_principal("a", ["user"], None).payload
    )
