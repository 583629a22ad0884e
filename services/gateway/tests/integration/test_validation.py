import math

import pytest
from gateway_client import failure_of, request_of

from caravan.inference.v1 import generation_pb2 as generation_pb

SYSTEM = generation_pb.CHAT_ROLE_SYSTEM


def _chat(*roles):
    messages = [generation_pb.ChatMessage(role=role, content="hi") for role in roles]
    return generation_pb.Chat(messages=messages)


async def test_all_faults_are_named_at_once_with_their_paths(client, worker):
    sampling = generation_pb.SamplingOptions(
        temperature=math.nan,
        top_p=0,
        repeat_penalty=math.inf,
        penalty_last_n=8193,
        logit_bias={3: 101.0, 4: 1.0},
        typical_p=0,
        dry=generation_pb.DryOptions(
            multiplier=math.nan, allowed_length=101, sequence_breakers=["", "x" * 41, "ok"]
        ),
        xtc=generation_pb.XtcOptions(probability=-1, threshold=0.6),
        mirostat=generation_pb.MirostatOptions(tau=math.inf, eta=0),
    )

    code, details = await failure_of(
        client.generate(
            None,
            chat=_chat(SYSTEM, 0, 99),
            sampling=sampling,
            stop=["ok", ""],
            max_output_tokens=0,
            priority=101,
            labels={"": "x"},
            choice_count=17,
            logprobs=generation_pb.LogprobOptions(top_count=21),
            session_id="",
        )
    )

    assert (code, details.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert [violation.field for violation in details.field_violations] == [
        "chat.messages[1].role",
        "chat.messages[2].role",
        "sampling.temperature",
        "sampling.top_p",
        "sampling.repeat_penalty",
        "sampling.penalty_last_n",
        "sampling.typical_p",
        "sampling.dry.multiplier",
        "sampling.dry.allowed_length",
        "sampling.dry.sequence_breakers[0]",
        "sampling.dry.sequence_breakers[1]",
        "sampling.xtc.probability",
        "sampling.xtc.threshold",
        "sampling.mirostat.tau",
        "sampling.mirostat.eta",
        "sampling.logit_bias[3]",
        "stop[1]",
        "max_output_tokens",
        "choice_count",
        "logprobs.top_count",
        "session_id",
        "priority",
        "labels",
    ]
    assert not worker.runs


@pytest.mark.parametrize(
    "fields",
    [
        {"text": ""},
        {"text": None, "token_ids": generation_pb.TokenIds()},
        {"text": None, "chat": generation_pb.Chat()},
    ],
)
async def test_an_empty_input_has_its_own_reason(client, fields):
    code, details = await failure_of(client.generate(**fields))

    assert (code, details.reason) == ("INVALID_ARGUMENT", "EMPTY_INPUT")
    assert len(details.field_violations) == 1


async def test_no_input_at_all_is_an_invalid_field(client):
    code, details = await failure_of(client.generate(None))

    assert (code, details.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert details.field_violations[0].field == "input"


async def test_everything_at_its_bound_is_taken(client, worker):
    await client.generate(
        None,
        token_ids=generation_pb.TokenIds(ids=[1]),
        sampling=generation_pb.SamplingOptions(
            temperature=5,
            top_k=1024,
            top_p=1,
            min_p=0,
            repeat_penalty=10,
            frequency_penalty=-2,
            presence_penalty=2,
            penalty_last_n=8192,
            logit_bias=dict.fromkeys(range(1024), -100.0),
            typical_p=1,
            dry=generation_pb.DryOptions(
                multiplier=5,
                base=4,
                allowed_length=100,
                penalty_last_n=8192,
                sequence_breakers=["x" * 40] * 16,
            ),
            xtc=generation_pb.XtcOptions(probability=1, threshold=0.5),
            mirostat=generation_pb.MirostatOptions(tau=20, eta=1),
        ),
        stop=["x" * 256] * 16,
        max_output_tokens=1,
        seed=2**64 - 1,
        priority=100,
        labels={"k" * 63: "v" * 255},
        choice_count=16,
        logprobs=generation_pb.LogprobOptions(top_count=20),
        session_id="s" * 128,
    )

    (run,) = worker.runs
    assert run.request.seed == 2**64 - 1
    assert len(run.request.sampling.logit_bias) == 1024


async def test_a_request_over_4_mib_is_refused_with_its_size(client):
    code, details = await failure_of(client.generate("x" * (4 * 2**20 + 1)))

    assert (code, details.reason) == ("INVALID_ARGUMENT", "REQUEST_TOO_LARGE")
    assert details.metadata["limit_bytes"] == str(4 * 2**20)


async def test_a_request_of_exactly_4_mib_is_served(client, worker):
    length = 4 * 2**20 - request_of("x" * 2**21).ByteSize() + 2**21
    assert request_of("x" * length).ByteSize() == 4 * 2**20

    await client.generate("x" * length)

    assert len(worker.runs[0].request.text) == length


async def test_undecodable_bytes_are_refused(gateway, client):
    call = client.channel.unary_unary("/caravan.inference.v1.InferenceService/Generate")
    code, details = await failure_of(call(b"\xff\xff", metadata=client.metadata))

    assert (code, details.reason) == ("INVALID_ARGUMENT", "MALFORMED_REQUEST")
