"""Workers that die, hang or leave under calls that go on."""

import asyncio

import grpc.aio
import pytest
from gateway_client import KEY, announced, events_of, failure_of, metric, until
from worker_fleet import begun, check_whole, rest_of

from caravan.inference.v1 import embedding_pb2 as embedding_pb
from caravan_rpckit.errors import Reason


def outcomes(app):
    async def of(outcome):
        return await metric(app, f'caravan_gateway_failovers_total{{outcome="{outcome}"}}')

    return of


async def test_a_stream_goes_on_on_another_replica_from_where_it_was(
    client, gateway, fleet, telemetry
):
    call, events = await begun(client, seed=7)
    second = await fleet.add("w2")
    await announced(fleet.engine, gateway)

    await fleet.kill("w1")

    events += await rest_of(call)
    check_whole(events, 60)
    first_run = fleet.workers["w1"].runs[0]
    (run,) = second.runs
    assert run.request == first_run.request
    assert run.caller.request_id == first_run.caller.request_id
    (choice,) = run.continuation.choices
    assert list(choice.token_ids) == list(range(len(choice.token_ids)))
    assert len(choice.token_ids) >= 5
    assert (run.continuation.model_digest, run.continuation.cached_tokens) == ("d" * 64, 2)
    await until(lambda: telemetry.records, "the record")
    (record,) = telemetry.records.values()
    assert (record.status_code, record.failover_count) == (0, 1)
    assert (record.input_tokens, record.output_tokens) == (7, 60)
    assert await outcomes(gateway)("continued") == 1
    assert await metric(gateway, "caravan_gateway_failover_pause_seconds_count") == 1


async def test_an_answer_that_is_not_streamed_goes_on_too(client, gateway, fleet):
    answer = asyncio.ensure_future(client.generate("60"))
    await until(lambda: fleet.workers["w1"].num_events > 5, "some tokens")
    await fleet.add("w2")
    await announced(fleet.engine, gateway)

    await fleet.kill("w1")

    (choice,) = (await answer).choices
    assert list(choice.token_ids) == list(range(60))
    assert choice.text == "tok " * 60


async def test_a_stream_waits_for_the_restarted_worker(client, gateway, fleet):
    call, events = await begun(client)
    await fleet.kill("w1")
    reading = asyncio.ensure_future(rest_of(call))
    await asyncio.sleep(0.3)
    assert not reading.done()

    await fleet.add("w1b")

    check_whole(events + await reading, 60)


async def test_a_call_that_lost_its_worker_before_it_began_starts_anew(client, fleet):
    fleet.workers["w1"].refusals = [Reason.WORKER_DIED]
    check_whole(await events_of(client.stream("9")), 9)
    assert not any(run.HasField("continuation") for run in fleet.workers["w1"].runs)


async def test_a_worker_that_ends_its_stream_without_a_word_is_replaced(client, gateway, fleet):
    call = client.stream("unfinished")
    answer = asyncio.ensure_future(events_of(call))
    await until(lambda: fleet.workers["w1"].outcomes["done"], "the end of the run")
    second = await fleet.add("w2")
    await until(lambda: second.runs, "the continuation")
    call.cancel()
    await asyncio.gather(answer, return_exceptions=True)
    assert list(second.runs[0].continuation.choices[0].token_ids) == [0, 1, 2]


async def test_choices_that_are_over_stay_over(client, gateway, fleet):
    second = await fleet.add("w2")
    await announced(fleet.engine, gateway)
    for worker in fleet.workers.values():
        worker.hold_after = 7  # started, five deltas, the end of the second choice
    call, events = client.stream("choices", choice_count=2), []
    while len(events) < 7:
        events.append(await call.read())
    served = next(name for name, worker in fleet.workers.items() if worker.runs)
    assert events[-1].finished.choice_index == 1
    await fleet.kill(served)
    (other,) = (worker for name, worker in fleet.workers.items() if name != served)
    await until(lambda: other.runs, "the continuation")
    first, second = other.runs[0].continuation.choices
    assert (list(first.token_ids), first.finished) == ([1, 3, 4], False)
    assert (list(second.token_ids), second.finished) == ([0, 2], True)
    assert first.mirostat_mu == 4.5
    call.cancel()


async def test_when_only_the_last_word_is_missing_no_worker_is_needed(client, fleet, telemetry):
    fleet.workers["w1"].hold_after = 8  # all but `completed`
    call, events = client.stream("choices", choice_count=2), []
    while len(events) < 8:
        events.append(await call.read())

    await fleet.kill("w1")

    (completed,) = await rest_of(call)
    assert completed.completed.usage.input_tokens == 7
    assert completed.completed.usage.cached_tokens == 2
    assert completed.completed.usage.output_tokens == 5
    await until(lambda: telemetry.records, "the record")
    (record,) = telemetry.records.values()
    assert (record.status_code, record.failover_count, record.output_tokens) == (0, 0, 5)


async def test_another_version_of_the_model_does_not_go_on(start_gateway, client_of, fleet):
    gateway = await start_gateway(failover={"timeout_s": 0.3})
    other = await fleet.add("w2", digest="e" * 64)
    del fleet.engine.endpoints["w2"]
    await announced(fleet.engine, gateway)
    call, _ = await begun(client_of(gateway))
    fleet.engine.set_endpoint("w2", fleet.wires["w2"].address, digest="e" * 64)
    await announced(fleet.engine, gateway)

    await fleet.kill("w1")

    with pytest.raises(grpc.aio.AioRpcError):
        await rest_of(call)
    assert not other.runs


async def test_without_a_worker_in_time_the_call_ends_with_a_time_to_retry(
    start_gateway, client_of, fleet, telemetry
):
    gateway = await start_gateway(failover={"timeout_s": 0.3})
    call, _ = await begun(client_of(gateway))
    await fleet.kill("w1")
    code, details = await failure_of(Rest(call))
    assert (code, details.reason) == ("UNAVAILABLE", "WORKER_DIED")
    assert details.retry_after_s > 0
    assert await outcomes(gateway)("given_up") == 1
    await until(lambda: telemetry.records, "the record")
    (record,) = telemetry.records.values()
    assert record.error_reason == "WORKER_DIED"
    assert record.output_tokens >= 5


@pytest.mark.parametrize("state", ["FAILED", "UNLOADED"])
async def test_a_model_that_does_not_come_back_is_not_waited_for(client, fleet, state):
    call, _ = await begun(client)
    await fleet.kill("w1")
    fleet.engine.set_model("tiny", state)
    fleet.engine.announce()
    async with asyncio.timeout(10):
        code, details = await failure_of(Rest(call))
    assert (code, details.reason) == ("UNAVAILABLE", "WORKER_DIED")


async def test_the_callers_deadline_bounds_the_search(client, gateway, fleet):
    call, _ = await begun(client, timeout=1.0)
    await fleet.kill("w1")
    code, _ = await failure_of(Rest(call))
    assert code == "DEADLINE_EXCEEDED"
    async with asyncio.timeout(5):
        while await outcomes(gateway)("ended") != 1:
            await asyncio.sleep(0.02)
    assert await metric(gateway, "caravan_gateway_worker_calls_active") == 0


async def test_a_key_that_is_revoked_meanwhile_ends_the_search(client, fleet, policy):
    call, _ = await begun(client)
    await fleet.kill("w1")
    policy.revoke(KEY)
    code, details = await failure_of(Rest(call))
    assert (code, details.reason) == ("UNAUTHENTICATED", "KEY_REVOKED")


async def test_a_worker_that_leaves_hands_its_calls_over(client, gateway, fleet):
    call, events = await begun(client)
    await fleet.add("w2")
    del fleet.engine.endpoints["w1"]
    await announced(fleet.engine, gateway)

    fleet.workers["w1"].leaving.set()

    check_whole(events + await rest_of(call), 60)


async def test_a_model_that_is_unloaded_says_so(client, fleet):
    call, _ = await begun(client)
    fleet.engine.endpoints.clear()
    fleet.engine.set_model("tiny", "UNLOADED")
    fleet.engine.announce()
    fleet.workers["w1"].leaving.set()
    code, details = await failure_of(Rest(call))
    assert (code, details.reason) == ("UNAVAILABLE", "DRAINING")
    assert details.retry_after_s > 0


async def test_a_full_queue_holds_up_only_calls_that_have_begun(client, gateway, fleet, telemetry):
    call, events = await begun(client)
    second = await fleet.add("w2")
    second.refusals = [Reason.QUEUE_FULL] * 3
    await announced(fleet.engine, gateway)
    await fleet.kill("w1")
    check_whole(events + await rest_of(call), 60)
    await until(lambda: telemetry.records, "the record")
    (record,) = telemetry.records.values()
    assert record.failover_count == 1

    second.refusals = [Reason.QUEUE_FULL]
    code, details = await failure_of(client.stream("3"))
    assert (code, details.reason) == ("UNAVAILABLE", "QUEUE_FULL")


async def test_a_worker_that_repeats_what_the_client_has_ends_the_call(client, gateway, fleet):
    call, _ = await begun(client)
    second = await fleet.add("w2")
    second.forgets = True
    await announced(fleet.engine, gateway)
    await fleet.kill("w1")
    code, details = await failure_of(Rest(call))
    assert (code, details.reason) == ("INTERNAL", "INTERNAL")


async def test_texts_are_embedded_by_whoever_is_left(client, gateway, fleet, telemetry):
    await fleet.add("w2")
    await announced(fleet.engine, gateway)
    for worker in fleet.workers.values():
        worker.refusals = [Reason.WORKER_DIED]
    request = embedding_pb.EmbedRequest(model="tiny", inputs=[embedding_pb.EmbedInput(text="3")])
    answer = await client.inference.Embed(request, metadata=client.metadata, timeout=10)
    assert len(answer.embeddings) == 1
    await until(lambda: telemetry.records, "the record")
    (record,) = telemetry.records.values()
    assert (record.input_tokens, record.failover_count) == (3, 2)


async def test_a_call_that_nobody_streams_goes_to_another_worker(client, gateway, fleet):
    request = embedding_pb.EmbedRequest(model="tiny", inputs=[embedding_pb.EmbedInput(text="hang")])
    call = client.inference.Embed(request, metadata=client.metadata, timeout=20)
    await until(lambda: fleet.workers["w1"].num_live, "the work")
    await fleet.kill("w1")
    second = await fleet.add("w2")
    await until(lambda: second.num_live, "the work again")
    call.cancel()


async def test_a_request_that_was_at_two_deaths_fails_alone(client, gateway, fleet, telemetry):
    poison, _ = await begun(client, "500")
    await fleet.kill("w1")
    await fleet.add("w2")
    await until(lambda: fleet.workers["w2"].num_events > 3, "it goes on")
    innocent, events = await begun(client)

    await fleet.kill("w2")

    code, details = await failure_of(Rest(poison))
    assert (code, details.reason) == ("INTERNAL", "POISON_REQUEST")
    assert details.metadata == {"model": "tiny", "deaths": "2"}
    await fleet.add("w3")
    check_whole(events + await rest_of(innocent), 60)
    assert await outcomes(gateway)("poison") == 1
    await until(lambda: len(telemetry.records) == 2, "the records")
    reasons = {record.error_reason for record in telemetry.records.values()}
    assert reasons == {"POISON_REQUEST", ""}


async def test_companions_of_a_poisonous_request_survive_it(start_gateway, client_of, fleet):
    gateway = await start_gateway(failover={"breaker_s": 0.05})
    client = client_of(gateway)
    streams = [await begun(client, "200") for _ in range(3)]
    poison = client.stream("hang")  # never gets further than to its computation
    await poison.read()
    readers = [asyncio.ensure_future(rest_of(call)) for call, _ in streams]
    ended = asyncio.ensure_future(failure_of(Rest(poison)))
    alive, number = "w1", 1
    while not ended.done():
        await fleet.kill(alive)
        number, alive = number + 1, f"w{number + 1}"
        worker = await fleet.add(alive)
        await until(lambda w=worker: ended.done() or _computes(w, "hang"), "the culprit", 20)
    assert number <= 8
    code, details = await ended
    assert (code, details.reason) == ("INTERNAL", "POISON_REQUEST")
    for (_, events), reader in zip(streams, readers, strict=True):
        check_whole(events + await reader, 200)


def _computes(worker, text):
    return any(run.request.text == text for run in worker.runs)


async def test_a_worker_that_stays_unreachable_for_a_while_poisons_nothing(
    start_gateway, client_of, fleet
):
    client = client_of(await start_gateway(failover={"breaker_s": 0.02}))
    call, events = await begun(client)
    wire = fleet.wires["w1"]
    await wire.cut()  # the network fails: nobody says that the worker is gone
    reading = asyncio.ensure_future(rest_of(call))
    await asyncio.sleep(1)
    assert not reading.done()

    await wire.start()

    check_whole(events + await reading, 60)


async def test_new_calls_avoid_a_worker_whose_stream_broke(start_gateway, client_of, fleet):
    gateway = await start_gateway(failover={"breaker_s": 20})
    client = client_of(gateway)
    second = await fleet.add("w2")
    await announced(fleet.engine, gateway)
    calls = [await begun(client) for _ in range(2)]
    await fleet.wires["w1"].cut()  # its host doesn't know yet
    for call, events in calls:
        check_whole(events + await rest_of(call), 60)
    num_runs = len(fleet.workers["w1"].runs)
    for _ in range(4):
        await client.generate("1")
    assert len(fleet.workers["w1"].runs) == num_runs
    assert len(second.runs) == 2 + 4


async def test_what_clients_do_wrong_opens_no_breaker(client, fleet):
    for _ in range(10):
        await failure_of(client.generate("refuse"))
    await client.generate("1")


async def test_the_trace_shows_the_search_for_another_worker(client, gateway, fleet, telemetry):
    call, events = await begun(client)
    await fleet.kill("w1")
    await fleet.add("w2")
    check_whole(events + await rest_of(call), 60)

    def named(name):
        return [span for span in telemetry.spans if span.name == name]

    await until(lambda: named("text_completion tiny"), "the call's span")
    (root,) = named("text_completion tiny")
    (failover,) = named("failover")
    streams = named("stream")
    assert len(streams) == 2
    assert {span.parent_span_id for span in (failover, *streams)} == {root.span_id}
    said = {entry.key: entry.value for entry in failover.attributes}
    assert said["caravan.failover.cause"].string_value == "died"
    assert said["caravan.failover.emitted_tokens"].int_value >= 5
    counts = {entry.key: entry.value.int_value for entry in root.attributes}
    assert counts["caravan.failover.count"] == 1


class Rest:
    """What is left of a stream that was read in part, to iterate over."""

    def __init__(self, call):
        self._call = call

    async def __aiter__(self):
        while (event := await self._call.read()) is not grpc.aio.EOF:
            yield event
