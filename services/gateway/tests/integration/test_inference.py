import asyncio

import grpc
import pytest
from gateway_client import announced, events_of, failure_of, ops, until
from wire import Wire

from caravan.inference.v1 import generation_pb2 as generation_pb


async def test_streams_the_events_of_the_worker_unchanged(client, worker):
    events = await events_of(client.stream("3", model="bundled", seed=5))

    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["started", "delta", "delta", "delta", "finished", "completed"]
    assert events[0].started.model == "tiny"
    assert events[0].started.seed == 5
    assert events[0].started.model_digest == "d" * 64
    assert [event.delta.token_offset for event in events[1:4]] == [0, 1, 2]
    assert events[-1].completed.usage.output_tokens == 3


async def test_generate_collects_the_same_events(client):
    response = await client.generate("3", seed=5)

    assert response.model == "tiny"
    assert response.seed == 5
    assert response.model_digest == "d" * 64
    assert response.request_id
    assert response.usage.input_tokens == 7
    (choice,) = response.choices
    assert choice.text == "tok tok tok "
    assert list(choice.token_ids) == [0, 1, 2]
    assert choice.finish_reason == generation_pb.FINISH_REASON_STOP_STRING
    assert choice.stop_string == "!"


async def test_generate_puts_each_choice_together_by_its_index(client, worker):
    response = await client.generate(
        "choices",
        choice_count=2,
        logprobs=generation_pb.LogprobOptions(top_count=1),
        session_id="s-1",
    )

    assert worker.runs[0].request.choice_count == 2
    assert worker.runs[0].request.logprobs.top_count == 1
    assert worker.runs[0].request.session_id == "s-1"
    assert [choice.index for choice in response.choices] == [0, 1]
    assert [choice.text for choice in response.choices] == ["000", "11"]
    assert [list(choice.token_ids) for choice in response.choices] == [[1, 3, 4], [0, 2]]
    assert [[one.logprob for one in choice.logprobs] for choice in response.choices] == [
        [-1, -3, -4],
        [0, -2],
    ]
    assert [choice.finish_reason for choice in response.choices] == [
        generation_pb.FINISH_REASON_LENGTH,
        generation_pb.FINISH_REASON_END_OF_TEXT,
    ]
    assert response.usage.output_tokens == 5


async def test_the_worker_learns_who_is_calling(client, worker):
    await client.generate(seed=1, priority=40, labels={"team": "a"})

    (run,) = worker.runs
    assert (run.caller.tenant, run.caller.principal) == ("default", "alice")
    assert run.caller.priority == run.request.priority == 40
    assert run.request.model == "tiny"
    assert dict(run.request.labels) == {"team": "a"}


async def test_priority_is_capped_by_the_callers_role(client, worker):
    await client.generate(priority=100)
    await client.generate()

    assert [run.caller.priority for run in worker.runs] == [50, 10]


async def test_a_seed_is_drawn_where_none_is_given(client, worker):
    seeds = {(await client.generate()).seed for _ in range(3)}

    assert len(seeds) == 3
    assert {run.request.seed for run in worker.runs} == seeds


async def test_seed_zero_is_a_seed(client):
    assert (await client.generate(seed=0)).seed == 0


async def test_nothing_of_the_clients_metadata_reaches_the_worker(client, worker):
    forged = (
        *client.metadata,
        ("caravan-principal", "root"),
        ("x-anything", "else"),
        ("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"),
    )
    await client.generate(metadata=forged)

    (metadata,) = worker.metadata
    assert not {"authorization", "caravan-principal", "x-anything", "traceparent"} & set(metadata)
    trace = worker.runs[0].caller.traceparent
    assert trace.startswith(f"00-{'a' * 32}-")  # the client's trace goes on
    assert trace != f"00-{'a' * 32}-{'b' * 16}-01"  # under the gateway's own span


async def test_a_valid_request_id_is_kept(client, worker):
    call = client.stream("1", metadata=(*client.metadata, ("x-request-id", "my.id-1")))
    await events_of(call)

    assert dict(await call.initial_metadata())["x-request-id"] == "my.id-1"
    assert worker.runs[0].caller.request_id == "my.id-1"


async def test_an_invalid_request_id_is_replaced_and_returned_also_with_errors(client):
    call = client.generate("", metadata=(*client.metadata, ("x-request-id", "no spaces!")))
    await failure_of(call)

    drawn = dict(await call.initial_metadata())["x-request-id"]
    assert drawn
    assert drawn != "no spaces!"


async def test_a_workers_refusal_passes_unchanged(client):
    for call in (client.generate("refuse"), client.stream("refuse")):
        code, details = await failure_of(call)
        assert code == "INVALID_ARGUMENT"
        assert details.reason == "CONTEXT_LENGTH_EXCEEDED"
        assert details.metadata == {"input_tokens": "9", "context_tokens": "8"}


async def test_an_answer_over_the_limit_is_refused_with_advice(start_gateway, client_of):
    client = client_of(await start_gateway(server={"max_response_bytes": 2048}))

    code, details = await failure_of(client.generate("flood"))

    assert (code, details.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert details.field_violations[0].field == "max_output_tokens"


async def test_without_failover_a_worker_that_dies_mid_stream_ends_its_streams_only(
    start_gateway, client_of, engine, worker
):
    gateway = await start_gateway(failover={"timeout_s": 0})
    client = client_of(gateway)
    wire = Wire(worker.port)
    await wire.start()
    engine.endpoints.clear()
    engine.set_endpoint("worker-2", wire.address)
    engine.set_endpoint("worker-3", worker.address, model="other")
    engine.set_model("other")
    await announced(engine, gateway)
    doomed, other = client.stream("hang"), client.stream("hang", model="other")
    await until(lambda: worker.num_live == 2, "runs")
    await anext(aiter(doomed))
    await anext(aiter(other))

    await wire.cut()

    code, details = await failure_of(doomed)
    assert (code, details.reason) == ("UNAVAILABLE", "WORKER_DIED")
    assert details.retry_after_s > 0
    assert details.metadata == {"model": "tiny"}
    await until(lambda: worker.num_live == 1, "the other run")
    other.cancel()


@pytest.mark.parametrize("method", ["generate", "stream"])
async def test_cancelling_reaches_the_worker(client, worker, method):
    call = getattr(client, method)("hang")
    if method == "stream":
        await anext(aiter(call))
    else:
        task = asyncio.ensure_future(call)
    await until(lambda: worker.num_live == 1, "the run")

    call.cancel()

    await until(lambda: worker.num_live == 0, "its end")
    assert worker.outcomes["cancelled"] == 1
    if method == "generate":
        await asyncio.gather(task, return_exceptions=True)


async def test_the_deadline_reaches_the_worker(client, worker):
    code, _ = await failure_of(client.stream("hang", timeout=0.5))

    assert code == "DEADLINE_EXCEEDED"
    await until(lambda: worker.num_live == 0, "its end")


async def test_a_client_that_does_not_read_holds_the_worker_back(client, worker):
    call = client.stream("flood")
    await anext(aiter(call))

    seen = -1
    while seen != worker.num_events:
        seen = worker.num_events
        await asyncio.sleep(0.3)

    # Windows and buffers of two connections; without back-pressure it would never stop.
    assert worker.num_events * 16_384 < 32 * 2**20
    call.cancel()
    await until(lambda: worker.num_live == 0, "its end")


async def test_a_client_that_never_reads_is_cut_off(start_gateway, client_of, worker):
    client = client_of(await start_gateway(server={"reader_stall_s": 1.0}))
    call = client.stream("flood")
    await anext(aiter(call))

    await until(lambda: worker.num_live == 0, "its end")
    code, details = await failure_of(call)
    assert (code, details.reason) == ("ABORTED", "READER_STALLED")


async def test_calls_go_to_the_least_loaded_replica(client, gateway, engine, worker):
    engine.set_endpoint("worker-2", worker.address, replica_index=1)
    await announced(engine, gateway)
    calls = [client.stream("hang") for _ in range(4)]
    for call in calls:
        await anext(aiter(call))

    assert worker.num_live == 4
    for call in calls:
        call.cancel()


async def test_a_drained_worker_finishes_what_it_has(client, engine, worker, gateway):
    worker.pause_s = 0.02
    call = client.stream("20")
    await anext(aiter(call))

    engine.endpoints.clear()
    engine.set_model("tiny", "DRAINING")
    engine.announce()

    async def refused():
        code, details = await failure_of(client.generate())
        return code == "UNAVAILABLE" and details.reason == "DRAINING"

    while not await refused():
        pass
    events = await events_of(call)
    assert events[-1].WhichOneof("event") == "completed"

    async def closed():
        return "caravan_gateway_worker_channels 0.0" in (await ops(gateway))[1]

    while not await closed():
        await asyncio.sleep(0.02)


async def test_a_restarted_worker_gets_a_channel_of_its_own(client, engine, worker):
    await client.generate()
    await worker.stop()
    await worker.start()
    engine.endpoints.clear()
    engine.set_endpoint("worker-1b", worker.address)
    engine.announce()

    async def answered():
        try:
            return await client.generate()
        except grpc.aio.AioRpcError:
            return None

    while not await answered():
        await asyncio.sleep(0.02)
