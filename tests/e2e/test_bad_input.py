"""Input that cannot be served: it is refused by its path, and the service stays as it was.

Credentials, permissions and unknown names are in `test_refusals`.
"""

import math

import grpc
import pytest
from slow_model import MODEL, SETTLE_S, embed, generate, request, stream

from caravan.inference.v1 import generation_pb2 as pb
from caravan.inference.v1 import tokenization_pb2
from caravan_rpckit.details import error_details
from caravan_testkit.waiting import wait_until

pytestmark = pytest.mark.usefixtures("small_stack_stays")
VOCABULARY = 1000
REQUEST_LIMIT = 4 * 2**20
SERVICE = "/caravan.inference.v1.InferenceService/"


@pytest.fixture
def client(small_admin):
    return small_admin


def raw(client, method, content):
    """A call with these very bytes."""
    send = client.channel.unary_unary(SERVICE + method)
    return send(content, metadata=client.metadata, timeout=60)


def refused(call):
    """Code and details of a call that has to be refused."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    details = error_details(caught.value)
    assert details is not None, caught.value
    return caught.value.code(), details


def check_invalid(call, reason, *fields):
    code, details = refused(call)
    assert (code, details.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert [violation.field for violation in details.field_violations] == list(fields)
    return details


@pytest.mark.parametrize(
    ("fields", "reason", "path"),
    [
        ({"text": ""}, "EMPTY_INPUT", "text"),
        ({"text": None, "token_ids": pb.TokenIds()}, "EMPTY_INPUT", "token_ids.ids"),
        ({"text": None, "chat": pb.Chat()}, "EMPTY_INPUT", "chat.messages"),
        ({"text": None}, "INVALID_FIELD", "input"),
    ],
    ids=["text", "tokens", "chat", "none"],
)
def test_an_empty_input_is_refused_by_its_path(client, fields, reason, path):
    check_invalid(lambda: generate(client, **fields), reason, path)
    check_invalid(lambda: list(stream(client, **fields)), reason, path)


NEVER = (math.nan, math.inf, -math.inf)


# Two values beside each documented range, and those that are in none.
OUT_OF_RANGE = {
    "temperature": (-0.01, 5.01, *NEVER),
    "top_k": (1025, 2**32 - 1),
    "top_p": (0, 1.01, *NEVER),
    "min_p": (-0.01, 1.01, *NEVER),
    "typical_p": (0, 1.01, *NEVER),
    "repeat_penalty": (0, 10.1, *NEVER),
    "frequency_penalty": (-2.01, 2.01, *NEVER),
    "presence_penalty": (-2.01, 2.01, *NEVER),
    "penalty_last_n": (8193, 2**32 - 1),
    "logit_bias[7]": (-100.1, 100.1, *NEVER),
    "dry.multiplier": (-0.01, 5.01, *NEVER),
    "dry.base": (0.99, 4.01, *NEVER),
    "dry.allowed_length": (101,),
    "dry.penalty_last_n": (8193,),
    "xtc.probability": (-0.01, 1.01, *NEVER),
    "xtc.threshold": (-0.01, 0.51, *NEVER),
    "mirostat.tau": (0, 20.1, *NEVER),
    "mirostat.eta": (0, 1.01, *NEVER),
}


def sampling_of(path, value):
    if path.startswith("logit_bias"):
        return pb.SamplingOptions(logit_bias={7: value})
    options = pb.SamplingOptions()
    *groups, name = path.split(".")
    target = options
    for group in groups:
        target = getattr(target, group)
    setattr(target, name, value)
    return options


@pytest.mark.parametrize("path", OUT_OF_RANGE)
def test_a_sampling_field_out_of_range_is_refused_by_its_path(client, path):
    for value in OUT_OF_RANGE[path]:
        sampling = sampling_of(path, value)
        check_invalid(
            lambda sampling=sampling: generate(client, sampling=sampling),
            "INVALID_FIELD",
            f"sampling.{path}",
        )


def test_every_sampling_field_was_tried():
    plain, grouped = set(), set()
    for field in pb.SamplingOptions.DESCRIPTOR.fields:
        if field.message_type is None or field.name == "logit_bias":
            plain.add(field.name)
        else:
            grouped |= {f"{field.name}.{inner.name}" for inner in field.message_type.fields}
    tried = {path.partition("[")[0] for path in OUT_OF_RANGE}
    assert tried == plain | grouped - {"dry.sequence_breakers"}


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"choice_count": 0}, "choice_count"),
        ({"choice_count": 17}, "choice_count"),
        ({"logprobs": pb.LogprobOptions(top_count=21)}, "logprobs.top_count"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"priority": 101}, "priority"),
        ({"stop": ["ok", ""]}, "stop[1]"),
        ({"stop": ["ok", "x" * 257]}, "stop[1]"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"labels": {"": "x"}}, "labels"),
        ({"labels": {str(number): "" for number in range(17)}}, "labels"),
        (
            {
                "sampling": pb.SamplingOptions(
                    dry=pb.DryOptions(multiplier=1, sequence_breakers=["\n", ""])
                )
            },
            "sampling.dry.sequence_breakers[1]",
        ),
        (
            {"text": None, "chat": pb.Chat(messages=[pb.ChatMessage(content="no role")])},
            "chat.messages[0].role",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_field_out_of_range_is_refused_by_its_path(client, fields, path):
    check_invalid(lambda: generate(client, **fields), "INVALID_FIELD", path)


@pytest.mark.parametrize(
    ("token", "index"), [(VOCABULARY, 1), (2**31, 1), (2**32 - 1, 1), (2, 1)], ids=str
)
def test_a_token_outside_of_the_texts_tokens_is_refused_with_its_place(client, token, index):
    ids = pb.TokenIds(ids=[300, token])
    code, details = refused(lambda: generate(client, text=None, token_ids=ids))
    assert (code, details.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOKEN_OUT_OF_RANGE")
    assert details.metadata["token_id"] == str(token)
    assert details.metadata["index"] == str(index)
    assert details.metadata["vocabulary_size"] == str(VOCABULARY)


def test_a_bias_for_a_token_that_is_not_there_is_refused(client):
    sampling = pb.SamplingOptions(logit_bias={VOCABULARY: 1.0})
    check_invalid(
        lambda: generate(client, sampling=sampling),
        "INVALID_FIELD",
        f"sampling.logit_bias[{VOCABULARY}]",
    )


def test_an_input_over_the_context_is_refused_with_both_lengths(client):
    for fields in ({"text": "hello " * 5000}, {"text": None, "token_ids": {"ids": [300] * 5000}}):
        code, details = refused(lambda fields=fields: generate(client, **fields))
        assert (code, details.reason) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "CONTEXT_LENGTH_EXCEEDED",
        )
        assert int(details.metadata["input_tokens"]) >= 5000
        assert details.metadata["context_tokens"] == "4096"


def tokenize(client, **fields):
    message = tokenization_pb2.TokenizeRequest(**{"model": MODEL, **fields})
    return client.inference.Tokenize(message, metadata=client.metadata, timeout=60)


def detokenize(client, ids):
    message = tokenization_pb2.DetokenizeRequest(model=MODEL, ids=ids)
    return client.inference.Detokenize(message, metadata=client.metadata, timeout=60)


def test_what_cannot_be_split_or_written_out_is_refused(client):
    ids = tokenize(client, text=" hello").ids
    assert detokenize(client, ids).text.strip() == "hello"
    check_invalid(lambda: tokenize(client, text=""), "EMPTY_INPUT", "text")
    check_invalid(lambda: tokenize(client), "INVALID_FIELD", "input")
    check_invalid(lambda: tokenize(client, chat=pb.Chat()), "EMPTY_INPUT", "chat.messages")
    check_invalid(lambda: detokenize(client, [1] * (2**20 + 1)), "INVALID_FIELD", "ids")
    code, details = refused(lambda: detokenize(client, [300, VOCABULARY]))
    assert (code, details.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOKEN_OUT_OF_RANGE")
    assert (details.metadata["index"], details.metadata["token_id"]) == ("1", str(VOCABULARY))


def test_what_cannot_be_embedded_is_refused_by_its_path(client, worker):
    text = {"text": "hello"}
    for inputs, reason, path in (
        ([], "EMPTY_INPUT", "inputs"),
        ([text] * 257, "INVALID_FIELD", "inputs"),
        ([text, {"text": ""}], "EMPTY_INPUT", "inputs[1].text"),
        ([text, {"token_ids": pb.TokenIds()}], "EMPTY_INPUT", "inputs[1].token_ids.ids"),
        ([text, text, text, {}], "INVALID_FIELD", "inputs[3].input"),
    ):
        check_invalid(lambda inputs=inputs: embed(client, *inputs), reason, path)

    code, details = refused(lambda: embed(client, text, {"text": "hello " * 5000}))
    assert (code, details.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CONTEXT_LENGTH_EXCEEDED")
    assert int(details.metadata["input_tokens"]) >= 5000
    assert details.metadata["context_tokens"] == "4096"
    ids = pb.TokenIds(ids=[300, VOCABULARY])
    code, details = refused(lambda: embed(client, text, {"token_ids": ids}))
    assert (code, details.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "TOKEN_OUT_OF_RANGE")
    wait_until(lambda: worker.look().is_idle, timeout_s=SETTLE_S, what="an idle worker")


METHODS = ["Generate", "StreamGenerate", "Embed", "Tokenize", "Detokenize"]
TEXT_FIELD = b"\x12"


@pytest.mark.parametrize(
    "method", ["Generate", "StreamGenerate", "Embed", "Tokenize", "Detokenize"]
)
@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xff\xff\xff",
        request().SerializeToString()[:-1],
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0b",
        b"\x0a\x02\xff\xfe" + TEXT_FIELD + b"\x01a",
    ],
    ids=["noise", "cut-off", "length", "group", "model-not-utf8"],
)
def test_bytes_that_are_no_request_are_refused(client, method, content):
    check_invalid(lambda: raw(client, method, content), "MALFORMED_REQUEST")


@pytest.mark.parametrize("method", ["Generate", "StreamGenerate", "Tokenize"])
@pytest.mark.parametrize(
    "text", [b"\xc3\x28", b"\xed\xa0\x80", b"\xc0\x80"], ids=["bare", "surrogate", "overlong"]
)
def test_a_text_that_is_not_utf8_is_refused(client, method, text):
    content = b"\x0a\x04slow" + TEXT_FIELD + bytes([len(text)]) + text
    check_invalid(lambda: raw(client, method, content), "MALFORMED_REQUEST")


def test_a_request_over_the_limit_is_refused_with_both_sizes(client):
    message = request(text="x" * REQUEST_LIMIT)
    code, details = refused(
        lambda: client.inference.Generate(message, metadata=client.metadata, timeout=60)
    )
    assert (code, details.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_TOO_LARGE")
    assert details.metadata["limit_bytes"] == str(REQUEST_LIMIT)
    assert details.metadata["size_bytes"] == str(message.ByteSize())


def test_a_request_over_the_transports_limit_is_refused_by_the_transport(client):
    with pytest.raises(grpc.RpcError) as caught:
        generate(client, text="x" * (3 * REQUEST_LIMIT))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error_details(caught.value) is None
    assert str(2 * REQUEST_LIMIT) in caught.value.details()
