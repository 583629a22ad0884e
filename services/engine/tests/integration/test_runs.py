"""Requests on a real worker with the tiny model."""

import asyncio
import contextlib
import random
from pathlib import Path

import grpc
import pytest

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.inference.v1 import generation_pb2 as pb
from caravan_rpckit.details import error_details
from caravan_testkit.waiting import wait_until_async

CANARY = "canary-prompt-canary"


def text_of(answers):
    return "".join(answer.event.delta.text for answer in answers)


def kinds_of(answers):
    return [answer.event.WhichOneof("event") for answer in answers]


async def failure(call):
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    details = error_details(failed.value)
    return details.reason, details, failed.value


async def test_a_run_is_started_delta_finished_completed(view):
    answers = await view.run(text="Once upon a time", max_output_tokens=8)

    kinds = kinds_of(answers)
    assert (kinds[0], kinds[-2], kinds[-1]) == ("started", "finished", "completed")
    assert set(kinds[1:-2]) == {"delta"}
    started, completed = answers[0].event.started, answers[-1].event.completed
    assert (started.request_id, started.model, started.seed) == ("req-1", "tiny", 7)
    assert started.model_digest == (await view.model()).digest
    assert len(started.model_digest) == 64
    assert completed.usage.input_tokens == started.input_tokens > 1
    assert completed.usage.output_tokens == 8
    assert answers[-1].timings.prefill_ms > 0


async def test_token_offsets_are_contiguous_and_sum_up(view):
    answers = await view.run(max_output_tokens=40)

    expected = 0
    for answer in answers:
        if answer.event.HasField("delta"):
            assert answer.event.delta.token_offset == expected
            expected += len(answer.event.delta.token_ids)
    assert expected == answers[-2].event.finished.output_tokens == 40


async def test_choices_come_in_one_stream_each_with_its_end_and_log_probabilities(view):
    sampling = {
        "temperature": 1.5,
        "typical_p": 0.9,
        "dry": pb.DryOptions(multiplier=0.8),
        "xtc": pb.XtcOptions(probability=0.5),
    }
    answers = await view.run(
        max_output_tokens=20,
        choice_count=3,
        logprobs=pb.LogprobOptions(top_count=2),
        sampling=sampling,
    )
    kinds = kinds_of(answers)
    assert (kinds[0], kinds[-1]) == ("started", "completed")
    finished = [answer.event.finished for answer in answers if answer.event.HasField("finished")]
    assert sorted(each.choice_index for each in finished) == [0, 1, 2]
    usage = answers[-1].event.completed.usage
    assert usage.output_tokens == sum(each.output_tokens for each in finished)
    assert usage.input_tokens == answers[0].event.started.input_tokens
    deltas = [answer.event.delta for answer in answers if answer.event.HasField("delta")]
    for delta in deltas:
        assert len(delta.logprobs) == len(delta.token_ids)
        assert all(len(each.top) == 2 and each.logprob <= 0 for each in delta.logprobs)
    texts = ["".join(d.text for d in deltas if d.choice_index == choice) for choice in range(3)]
    assert len(set(texts)) == 3
    again = await view.run(max_output_tokens=20, choice_count=3, sampling=sampling)
    assert len(text_of(again)) > 0


async def test_mirostat_generates(view):
    sampling = {"temperature": 1, "mirostat": pb.MirostatOptions(tau=3)}
    answers = await view.run(max_output_tokens=20, sampling=sampling)
    assert answers[-1].event.completed.usage.output_tokens > 0


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"choice_count": 17}, "choice_count"),
        ({"logprobs": pb.LogprobOptions(top_count=21)}, "logprobs.top_count"),
        ({"sampling": {"dry": pb.DryOptions(base=float("nan"))}}, "sampling.dry.base"),
        ({"sampling": {"xtc": pb.XtcOptions(threshold=0.7)}}, "sampling.xtc.threshold"),
        ({"sampling": {"mirostat": pb.MirostatOptions(eta=0)}}, "sampling.mirostat.eta"),
    ],
)
async def test_fields_out_of_range_are_refused_by_their_path(view, fields, path):
    _, details, error = await failure(view.run(**fields))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert [each.field for each in details.field_violations] == [path]


async def test_the_same_request_gives_the_same_text(view):
    first = await view.run(text="A caravan is")
    second = await view.run(text="A caravan is")

    assert text_of(first) == text_of(second) != ""


async def test_tokens_and_text_of_the_same_input_continue_alike(view):
    by_text = await view.run(text="hello")
    answers = await view.run(token_ids=pb.TokenIds(ids=[300, 301]))

    assert by_text[0].event.started.input_tokens >= 2
    assert answers[0].event.started.input_tokens == 2


async def test_a_chat_is_rendered_by_the_models_template(view):
    chat = pb.Chat(messages=[pb.ChatMessage(role=pb.CHAT_ROLE_USER, content="hello")])

    answers = await view.run(chat=chat)

    assert kinds_of(answers)[-1] == "completed"
    assert (await view.model()).details.has_chat_template


async def test_control_tokens_in_a_message_are_longer_because_they_are_plain_text(view):
    def chat(content):
        return pb.Chat(messages=[pb.ChatMessage(role=pb.CHAT_ROLE_USER, content=content)])

    empty = (await view.run(chat=chat("")))[0].event.started.input_tokens
    marked = (await view.run(chat=chat("<|im_end|>")))[0].event.started.input_tokens

    assert marked - empty > 5


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"text": ""}, "EMPTY_INPUT"),
        ({"token_ids": pb.TokenIds()}, "EMPTY_INPUT"),
        ({"chat": pb.Chat()}, "EMPTY_INPUT"),
        ({"token_ids": pb.TokenIds(ids=[1000])}, "TOKEN_OUT_OF_RANGE"),
        ({"token_ids": pb.TokenIds(ids=[259])}, "TOKEN_OUT_OF_RANGE"),
        ({"sampling": {"temperature": 9.0}}, "INVALID_FIELD"),
        ({"sampling": {"logit_bias": {1000: 1.0}}}, "INVALID_FIELD"),
        ({"max_output_tokens": 0}, "INVALID_FIELD"),
        ({"chat": pb.Chat(messages=[pb.ChatMessage(content="x")])}, "INVALID_FIELD"),
        ({"model": "other"}, "WORKER_DIED"),
    ],
)
async def test_what_only_the_worker_can_see_is_refused(view, fields, reason):
    assert (await failure(view.run(**fields)))[0] == reason


async def test_an_input_over_the_context_is_refused_with_both_lengths(view):
    reason, details, error = await failure(view.run(text="hello " * 3000))

    assert (reason, error.code()) == (
        "CONTEXT_LENGTH_EXCEEDED",
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    assert details.metadata["context_tokens"] == "1024"
    assert int(details.metadata["input_tokens"]) > 1024


async def test_a_large_input_is_refused_by_its_tokens_not_its_bytes(view):
    reason, details, _ = await failure(view.run(text="x" * (4 * 2**20 - 1000)))

    assert reason == "CONTEXT_LENGTH_EXCEEDED"
    assert int(details.metadata["input_tokens"]) > 100_000


async def until_idle(view):
    async def idle():
        stats = await view.stats("slow")
        return stats.running_count == stats.waiting_count == stats.used_cell_count == 0

    await wait_until_async(idle, timeout_s=10, what="the cells to be free")


def outcomes(stats):
    return {entry.outcome: entry.count for entry in stats.outcomes}


async def test_cancelling_frees_the_cells(view):
    before = outcomes(await view.stats("slow")).get("cancelled", 0)
    call = await view.begin()
    assert (await view.stats("slow")).used_cell_count > 0
    call.cancel()

    await until_idle(view)
    assert outcomes(await view.stats("slow"))["cancelled"] == before + 1


async def test_a_deadline_that_cannot_be_met_is_refused_at_once_with_an_estimate(
    start_host, view_of
):
    view = await view_of(start_host(load="slow"))
    slow = {"worker": "slow", "model": "slow"}
    for number in range(4):  # so that something is measured
        await view.run(**slow, text=f"{number} " + "hello " * 60, max_output_tokens=4)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await view.run(**slow, max_output_tokens=900, ignore_eos=True, within_s=0.2)
    details = error_details(refused.value)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert details.reason == "DEADLINE_UNREACHABLE"
    estimate_ms, remaining_ms = (
        int(details.metadata[name]) for name in ("estimate_ms", "remaining_ms")
    )
    assert 0 < remaining_ms <= 200 < estimate_ms
    assert details.retry_after_s > 0
    await view.run(**slow, max_output_tokens=2)


async def test_a_deadline_ends_the_request(view):
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await view.run(worker="slow", model="slow", max_output_tokens=900, within_s=0.5)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED

    await until_idle(view)


async def test_more_requests_than_seats_wait_for_their_turn(view):
    calls = [await view.begin(max_output_tokens=200) for _ in range(4)]
    waiting = asyncio.create_task(view.run(worker="slow", model="slow", max_output_tokens=1))

    async def waits():
        return (await view.stats("slow")).waiting_count == 1

    await wait_until_async(waits, timeout_s=10, what="the fifth to wait")
    calls[0].cancel()
    assert kinds_of(await waiting)[-1] == "completed"
    for call in calls:
        call.cancel()
    await until_idle(view)


async def test_several_runs_at_once_finish(view):
    runs = [view.run(text=f"Number {number}", max_output_tokens=30) for number in range(12)]

    answers = await asyncio.gather(*runs)

    assert {len(each) > 3 and kinds_of(each)[-1] for each in answers} == {"completed"}


async def test_numbers_of_the_worker_reach_the_ops_port(view):
    await view.run(max_output_tokens=8)
    tokens = (await view.stats()).output_tokens_total

    async def shown():
        metrics = await asyncio.to_thread(view.host.fetch, "/metrics")
        name = f'llama_tokens_generated_total{{model="tiny",replica="0"}} {float(tokens)}'
        return name in metrics and "vllm:prompt_tokens_total{" in metrics

    await wait_until_async(shown, timeout_s=10, what="the numbers")


async def test_no_prompt_reaches_a_log(view):
    chat = pb.Chat(messages=[pb.ChatMessage(role=pb.CHAT_ROLE_USER, content=CANARY)])
    await view.run(text=CANARY)
    await view.run(chat=chat)
    await failure(view.run(text=CANARY * 3000))
    (await view.begin(text=CANARY)).cancel()
    await until_idle(view)

    assert CANARY not in view.host.log_text()


async def test_the_log_names_a_run_as_its_caller_does(view):
    await view.run(caller={"request_id": "named-by-the-gateway"})

    async def logged():
        runs = [
            record
            for record in view.host.log_records()
            if record.get("method") == "caravan.engine.v1.WorkerService/Run"
        ]
        return "named-by-the-gateway" in [run["request_id"] for run in runs]

    await wait_until_async(logged, timeout_s=10, what="the line")


@pytest.mark.parametrize("peer", ["policy", "telemetry"])
async def test_other_services_may_not_call(view, view_of, peer):
    stranger = await view_of(view.host, peer)
    reason, _, error = await failure(stranger.model())
    assert (reason, error.code()) == ("PEER_NOT_ALLOWED", grpc.StatusCode.PERMISSION_DENIED)

    endpoint = await view.endpoint()
    stranger.endpoint = lambda _model: _returned(endpoint)
    assert (await failure(stranger.run()))[0] == "PEER_NOT_ALLOWED"


async def test_a_gateway_may_not_drain_a_worker_and_the_host_may_not_run(view, view_of):
    worker = await view.worker()
    assert (await failure(worker.Drain(worker_pb.DrainRequest())))[0] == "PEER_NOT_ALLOWED"

    endpoint = await view.endpoint()
    engine = await view_of(view.host, "engine")
    engine.endpoint = lambda _model: _returned(endpoint)
    assert (await failure(engine.run()))[0] == "PEER_NOT_ALLOWED"
    assert (await engine.stats()).model == "tiny"


async def test_readers_that_leave_at_any_moment_leave_nothing_behind(view):
    chance = random.Random(5)
    pid = (await view.model()).replicas[0].process_id

    async def leave_somewhere(number):
        with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError):
            async with asyncio.timeout(chance.uniform(0, 0.15)):
                await view.run(text=f"Number {number}", max_output_tokens=500)

    for _ in range(15):
        await asyncio.gather(*(leave_somewhere(number) for number in range(20)))
    before = threads_and_files(pid)
    for _ in range(35):
        await asyncio.gather(*(leave_somewhere(number) for number in range(20)))

    async def idle():
        stats = await view.stats()
        return stats.running_count == stats.waiting_count == stats.used_cell_count == 0

    await wait_until_async(idle, timeout_s=20, what="all to be over")
    threads, files = threads_and_files(pid)
    assert threads <= before[0]
    assert files <= before[1] + 2
    assert (await view.run())[-1].event.HasField("completed")


def threads_and_files(pid):
    folder = Path(f"/proc/{pid}")
    return len(list((folder / "task").iterdir())), len(list((folder / "fd").iterdir()))


async def _returned(value):
    return value
