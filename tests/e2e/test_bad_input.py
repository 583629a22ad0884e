"""Input that cannot be served, and clients that leave or don't read: the service stays as it was.

Credentials, permissions and unknown names are in `test_refusals`.
"""

import contextlib
import math
import re
import threading
from collections.abc import Iterator

import grpc
import pytest

from caravan.inference.v1 import embedding_pb2, tokenization_pb2
from caravan.inference.v1 import generation_pb2 as pb
from caravan_rpckit.details import error_details
from caravan_testkit.waiting import wait_until

MODEL = "slow"
VOCABULARY = 1000
REQUEST_LIMIT = 4 * 2**20
SETTLE_S = 20.0
LONG_PROMPT = "hello " * 3000
SERVICE = "/caravan.inference.v1.InferenceService/"


def request(**fields):
    defaults = {
        "model": MODEL,
        "text": "Once",
        "max_output_tokens": 4,
        "sampling": pb.SamplingOptions(temperature=0),
    }
    return pb.GenerateRequest(**{**defaults, **fields})


def stream(client, *, timeout=60, **fields):
    return client.inference.StreamGenerate(
        request(**fields), metadata=client.metadata, timeout=timeout
    )


def generate(client, **fields):
    return client.inference.Generate(request(**fields), metadata=client.metadata, timeout=60)


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


class Worker:
    """The worker's numbers, as the engine's operations port shows them."""

    def __init__(self, stack):
        self._stack = stack

    def _numbers(self, name):
        lines = re.findall(rf"^{name}\{{[^}}]*\"{MODEL}\".*\}} (\S+)$", self._metrics, re.MULTILINE)
        assert lines, name
        return [float(number) for number in lines]

    def look(self):
        self._metrics = self._stack.metrics("engine")
        return self

    @property
    def num_ended(self):
        """Requests that ended early."""
        ends = re.findall(
            rf'^llama_requests_total\{{model="{MODEL}",.*status="(?:cancelled|error)"\}} (\S+)$',
            self._metrics,
            re.MULTILINE,
        )
        return sum(map(float, ends))

    @property
    def num_running(self):
        return sum(self._numbers("vllm:num_requests_running"))

    @property
    def num_waiting(self):
        return sum(self._numbers("vllm:num_requests_waiting"))

    @property
    def is_idle(self):
        used = self._numbers("vllm:kv_cache_usage_perc")
        return self.num_running == self.num_waiting == sum(used) == 0

    def await_end(self, num_before, count=1):
        """Waits until `count` more requests have ended and nothing is left of them."""
        wait_until(
            lambda: self.look().num_ended >= num_before + count and self.is_idle,
            timeout_s=SETTLE_S,
            what="the worker to be idle",
        )


@pytest.fixture
def worker(small_stack):
    """The worker, with all that earlier tests did behind it."""
    worker = Worker(small_stack)
    wait_until(lambda: worker.look().is_idle, timeout_s=SETTLE_S, what="an idle worker")
    return worker


@pytest.fixture
def client(small_admin):
    return small_admin


@pytest.fixture(autouse=True)
def the_service_is_as_before(client, small_stack):
    [before] = small_stack.workers()
    yield
    assert len(generate(client).choices[0].token_ids) == 4
    assert [each.pid for each in small_stack.workers()] == [before.pid]


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


def embed(client, *inputs, model=MODEL, **fields):
    message = embedding_pb2.EmbedRequest(model=model, inputs=inputs, **fields)
    return client.inference.Embed(message, metadata=client.metadata, timeout=60)


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


@contextlib.contextmanager
def all_seats_taken(client) -> Iterator[list[threading.Event]]:
    """Two generations that go on for seconds; each event says that one has ended."""
    calls, ends = [], []
    for _ in range(2):
        calls.append(stream(client, text="Once upon", max_output_tokens=1900, ignore_eos=True))
        first = [next(calls[-1]).WhichOneof("event") for _ in range(2)]
        assert first == ["started", "delta"]
        ends.append(threading.Event())
        threading.Thread(target=read_on, args=(calls[-1], ends[-1]), daemon=True).start()
    try:
        yield ends
    finally:
        for call in calls:
            call.cancel()
        for end in ends:
            assert end.wait(SETTLE_S)


def read_on(call, end):
    with contextlib.suppress(grpc.RpcError):
        for _ in call:
            pass
    end.set()


def events_until_late(call):
    """What came before the deadline passed."""
    kinds = []
    with pytest.raises(grpc.RpcError) as caught:
        read_into(kinds, call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    return kinds


def read_into(kinds, call):
    for event in call:
        kinds.append(event.WhichOneof("event"))


@pytest.mark.parametrize("timeout_s", [1e-9, 1e-3])
def test_a_deadline_that_is_past_is_told_as_such(client, worker, timeout_s):
    with pytest.raises(grpc.RpcError) as caught:
        list(stream(client, timeout=timeout_s, max_output_tokens=1900, ignore_eos=True))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: worker.look().is_idle, timeout_s=SETTLE_S, what="an idle worker")


def test_a_deadline_that_passes_in_the_queue_ends_the_call(client, worker):
    before = worker.num_ended
    with all_seats_taken(client) as ends:
        waiting = stream(client, timeout=1.0)
        assert list(events_until_late(waiting)) == []
        assert not any(end.is_set() for end in ends)
    worker.await_end(before, 3)


def test_a_deadline_that_passes_in_prefill_ends_the_call(client, worker):
    before = worker.num_ended
    call = stream(client, timeout=1.0, text=LONG_PROMPT)
    assert events_until_late(call) in (["started"], [])
    worker.await_end(before)


def test_a_deadline_that_passes_in_decode_ends_the_call(client, worker):
    before = worker.num_ended
    call = stream(client, timeout=2.0, max_output_tokens=4000, ignore_eos=True)
    assert set(events_until_late(call)) == {"started", "delta"}
    worker.await_end(before)


def test_a_client_that_leaves_the_queue_leaves_nothing(client, worker):
    before = worker.num_ended
    with all_seats_taken(client):
        waiting = stream(client)
        wait_until(lambda: worker.look().num_waiting == 1, timeout_s=SETTLE_S, what="the queue")
        waiting.cancel()
        wait_until(
            lambda: worker.look().num_ended == before + 1 and worker.num_waiting == 0,
            timeout_s=SETTLE_S,
            what="the queue to be empty",
        )
        assert worker.num_running == 2
    worker.await_end(before, 3)


def test_a_client_that_leaves_in_prefill_leaves_nothing(client, worker):
    before = worker.num_ended
    call = stream(client, text=LONG_PROMPT)
    assert next(call).WhichOneof("event") == "started"
    call.cancel()
    worker.await_end(before)


def test_a_client_that_leaves_in_decode_leaves_nothing(client, worker):
    before = worker.num_ended
    call = stream(client, max_output_tokens=4000, ignore_eos=True)
    assert [next(call).WhichOneof("event") for _ in range(3)] == ["started", "delta", "delta"]
    call.cancel()
    worker.await_end(before)


def test_a_client_whose_connection_breaks_leaves_nothing(client, worker, connect_to_small):
    before = worker.num_ended
    other = connect_to_small()
    call = stream(other, max_output_tokens=4000, ignore_eos=True)
    assert next(call).WhichOneof("event") == "started"
    other.close()
    worker.await_end(before)


def test_a_reader_that_never_reads_is_cut_off(client, worker, connect_to_small):
    before = worker.num_ended
    tiny_window = (("grpc.http2.lookahead_bytes", 1), ("grpc.http2.bdp_probe", 0))
    call = stream(
        connect_to_small(tiny_window),
        text="Once upon",
        max_output_tokens=4000,
        ignore_eos=True,
        logprobs=pb.LogprobOptions(top_count=20),
    )
    worker.await_end(before)
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    details = error_details(caught.value)
    assert (caught.value.code(), details.reason) == (grpc.StatusCode.ABORTED, "READER_STALLED")


def test_an_embedding_that_is_late_or_left_leaves_nothing(client, worker):
    inputs = [embedding_pb2.EmbedInput(text=f"{number} " + "hello " * 400) for number in range(64)]
    message = embedding_pb2.EmbedRequest(model=MODEL, inputs=inputs)
    before = worker.num_ended
    with pytest.raises(grpc.RpcError) as caught:
        client.inference.Embed(message, metadata=client.metadata, timeout=1.0)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    worker.await_end(before)

    before = worker.num_ended
    call = client.inference.Embed.future(message, metadata=client.metadata, timeout=60)
    wait_until(lambda: not worker.look().is_idle, timeout_s=SETTLE_S, what="the work")
    call.cancel()
    worker.await_end(before)
