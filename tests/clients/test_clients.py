"""What programs in other languages see of Caravan, through stubs generated from the contracts."""

import asyncio
import itertools
import json

import grpc
import pytest

from caravan.inference.v1 import generation_pb2 as pb
from caravan.inference.v1 import inference_service_pb2_grpc as inference_grpc
from caravan_rpckit.errors import CaravanError, FieldViolation, Reason
from caravan_testkit.gateways import forwarder_to
from caravan_testkit.network import free_port
from caravan_testkit.stack import Stack
from caravan_testkit.waiting import wait_until

WAIT_S = 20.0

# Timers of some languages count whole milliseconds and may end in the last one.
TIMER_GRAIN_S = 0.002


class QueueFullError(CaravanError):
    reason = Reason.QUEUE_FULL


class InvalidFieldError(CaravanError):
    reason = Reason.INVALID_FIELD


def number(code: grpc.StatusCode) -> int:
    return code.value[0]


def text_from_python(stack: Stack, num_tokens: int = 32) -> str:
    """What the programs' request for a stream gives."""
    request = pb.GenerateRequest(
        model="bundled", text="Once upon a time", max_output_tokens=num_tokens
    )
    request.sampling.temperature = 0
    with grpc.insecure_channel(stack.address) as channel:
        response = inference_grpc.InferenceServiceStub(channel).Generate(
            request, metadata=[("authorization", f"Bearer {stack.admin_key}")], timeout=WAIT_S
        )
    return response.choices[0].text


def logged_calls(stack: Stack, request_id: str) -> list[dict]:
    """The gateway's log lines at the end of a call."""
    lines = stack.log_path("gateway").read_text().splitlines()
    entries = [json.loads(line) for line in lines if f'"{request_id}"' in line]
    return [entry for entry in entries if "code" in entry]


@pytest.mark.e2e
async def test_a_key_opens_a_stream_of_the_whole_text(program, stack):
    result = await program.play("stream", stack.address, stack.admin_key)
    assert result["text"] == text_from_python(stack)
    assert result["finish_reason"] == "FINISH_REASON_LENGTH"
    assert result["output_tokens"] == 32
    assert result["request_id"]


@pytest.mark.e2e
async def test_a_stream_whose_connection_breaks_goes_on_to_the_whole_text(program, stack):
    with forwarder_to(stack.address) as forwarder:
        result = await program.play(
            "resume", forwarder.address, stack.admin_key, at_first_text=forwarder.cut
        )
    assert "failure" not in result, result
    assert result["text"] == text_from_python(stack, 300)


async def test_what_was_received_of_a_broken_stream_is_not_asked_for_again(program, gateway):
    fake, address = gateway
    with forwarder_to(address) as forwarder:
        result = await program.play("resume", forwarder.address, "key", at_first_text=forwarder.cut)
    assert result["text"] == "012345"
    assert result["finish_reason"] == "FINISH_REASON_LENGTH"
    [asked] = fake.resumptions
    assert asked.request_id == result["request_id"]
    assert 1 <= asked.choices[0].output_tokens <= 3
    assert not asked.choices[0].finished


@pytest.mark.e2e
async def test_a_wrong_key_is_told_apart_by_its_reason(program, stack):
    result = await program.play("stream", stack.address, "cvn_wrong")
    assert result["failure"]["code"] == number(grpc.StatusCode.UNAUTHENTICATED)
    assert result["failure"]["reason"] == "INVALID_CREDENTIAL"


@pytest.mark.e2e
async def test_a_bad_request_names_its_field(program, stack):
    result = await program.play("refuse", stack.address, stack.admin_key)
    failure = result["failure"]
    assert failure["code"] == number(grpc.StatusCode.INVALID_ARGUMENT)
    assert failure["reason"] == "INVALID_FIELD"
    assert failure["fields"] == ["sampling.top_p"]


@pytest.mark.e2e
async def test_a_cancelled_stream_ends_on_both_sides(program, stack):
    result = await program.play("cancel", stack.address, stack.admin_key)
    assert result["finish_reason"] == "FINISH_REASON_UNSPECIFIED"
    calls = wait_until(
        lambda: logged_calls(stack, result["request_id"]), timeout_s=WAIT_S, what="the log line"
    )
    assert [call["code"] for call in calls] == ["CANCELLED"]


async def test_a_gateway_that_is_away_is_an_error_without_details(program):
    result = await program.play("retry", f"127.0.0.1:{free_port()}", "key")
    failure = result["failure"]
    assert failure["code"] == number(grpc.StatusCode.UNAVAILABLE)
    assert not failure.get("reason")
    assert failure["fields"] == []


async def test_cancelling_reaches_the_service_while_the_stream_is_silent(program, gateway):
    fake, address = gateway
    await program.play("cancel", address, "key")
    async with asyncio.timeout(WAIT_S):
        await fake.left.wait()


async def test_a_refused_call_comes_back_after_the_told_delays(program, gateway):
    fake, address = gateway
    delays_s = [0.3, 0.5]
    fake.refusals = [QueueFullError("Full.", retry_after_s=delay_s) for delay_s in delays_s]
    result = await program.play("retry", address, "key")
    assert result["text"] == " there was"
    assert [refusal["reason"] for refusal in result["refusals"]] == ["QUEUE_FULL"] * 2
    assert [refusal["retry_after_ms"] for refusal in result["refusals"]] == [300, 500]
    gaps_s = [later - earlier for earlier, later in itertools.pairwise(fake.arrivals)]
    assert len(gaps_s) == len(delays_s)
    for gap_s, delay_s in zip(gaps_s, delays_s, strict=True):
        assert gap_s >= delay_s - TIMER_GRAIN_S


async def test_what_cannot_succeed_is_not_repeated(program, gateway):
    fake, address = gateway
    violation = FieldViolation("sampling.top_p", "above 0 to 1")
    fake.refusals = [InvalidFieldError("No.", field_violations=[violation])]
    result = await program.play("retry", address, "key")
    assert result["failure"]["fields"] == ["sampling.top_p"]
    assert "retry_after_ms" not in result["failure"]
    assert len(fake.arrivals) == 1


async def test_a_delay_beyond_the_deadline_is_not_begun(program, gateway):
    fake, address = gateway
    fake.refusals = [QueueFullError("Full.", retry_after_s=3600)]
    result = await program.play("retry", address, "key")
    assert result["failure"]["retry_after_ms"] == 3_600_000
    assert len(fake.arrivals) == 1


async def test_a_service_that_stays_full_is_asked_four_times(program, gateway):
    fake, address = gateway
    fake.refusals = [QueueFullError("Full.", retry_after_s=0.01) for _ in range(9)]
    result = await program.play("retry", address, "key")
    assert result["failure"]["code"] == number(grpc.StatusCode.UNAVAILABLE)
    assert result["failure"]["reason"] == "QUEUE_FULL"
    assert len(fake.arrivals) == 4
