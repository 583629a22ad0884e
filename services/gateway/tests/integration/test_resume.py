"""Streams whose clients come back, and who accounts for them."""

import asyncio

import grpc.aio
import pytest
from fake_worker import FakeWorker
from gateway_client import ADMIN_KEY, KEY, announced, events_of, failure_of, until

from caravan.engine.v1 import worker_service_pb2 as worker_pb
from caravan.gateway.v1 import stream_service_pb2 as stream_pb
from caravan.gateway.v1 import stream_service_pb2_grpc as stream_grpc
from caravan.telemetry.v1 import usage_pb2 as usage_pb
from caravan_rpckit.details import error_details
from caravan_rpckit.errors import Reason

RESUMABLE = ("x-caravan-resumable", "1")
CANCELLED = grpc.StatusCode.CANCELLED.value[0]


@pytest.fixture
async def streams(client):
    return stream_grpc.StreamServiceStub(client.channel)


@pytest.fixture
async def second_worker(home, engine, gateway):
    worker = FakeWorker(home)
    await worker.start()
    engine.set_endpoint("worker-2", worker.address, replica_index=1)
    await announced(engine, gateway)
    yield worker
    await worker.stop()


def begin(client, text, request_id="call-1", *, resumable=True, **fields):
    metadata = (*client.metadata, ("x-request-id", request_id))
    if resumable:
        metadata = (*metadata, RESUMABLE)
    return client.stream(text, metadata=metadata, **fields)


def resume(streams, client, request_id="call-1", *, count=0, finished=False, model="tiny"):
    request = stream_pb.ResumeGenerateRequest(
        model=model,
        request_id=request_id,
        choices=[stream_pb.ReceivedChoice(output_tokens=count, finished=finished)],
    )
    return streams.ResumeGenerate(request, metadata=client.metadata, timeout=20)


def keep(worker, run, *, count, principal="alice"):
    """Has the fake worker keep a run of which the client has so many tokens."""
    kept = worker_pb.RunRequest()
    kept.CopyFrom(run)
    kept.continuation.CopyFrom(
        worker_pb.Continuation(
            choices=[worker_pb.ChoiceContinuation(token_ids=range(count))],
            model_digest="d" * 64,
            cached_tokens=2,
        )
    )
    found = worker_pb.FindStreamResponse(run=kept, time_to_first_token_ms=3.0)
    worker.kept["default", principal, run.caller.request_id] = found


async def begun(client, worker, num_events=3, **options):
    """A stream that was left after some events."""
    call = begin(client, "200", **options)
    for _ in range(num_events):
        await call.read()
    return call


async def ending_of(call):
    """Code and details with which a stream that was read by parts ends."""
    try:
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code().name, error_details(error)
    raise AssertionError("the call went well")


async def left(client, worker, **options):
    call = await begun(client, worker, **options)
    call.cancel()
    await until(lambda: not worker.num_live, "the end of the run")
    return worker.runs[-1]


async def records(telemetry, count=1):
    await until(lambda: len(telemetry.records) >= count, "records")
    return list(telemetry.records.values())


async def test_only_a_stream_that_says_so_is_kept(client, worker):
    await events_of(begin(client, "3"))
    await events_of(begin(client, "3", resumable=False))
    await client.generate("3", metadata=(*client.metadata, RESUMABLE))
    assert [run.retention.resumable for run in worker.runs] == [True, False, False]
    assert all(run.retention.usage_id for run in worker.runs)


async def test_the_worker_gets_the_record_as_it_began(client, worker, telemetry):
    await events_of(begin(client, "3", labels={"team": "red"}))
    retention = worker.runs[0].retention
    begun = usage_pb.UsageRecord.FromString(retention.usage_record)
    (record,) = await records(telemetry)
    assert begun.id == retention.usage_id == record.id
    assert (begun.status_code, begun.output_tokens) == (0, 0)
    for name in ("request_id", "tenant", "principal", "key_id", "method", "model", "labels"):
        assert getattr(begun, name) == getattr(record, name)
    assert (begun.start_time, begun.gateway_id) == (record.start_time, record.gateway_id)


async def test_the_worker_hears_when_the_record_is_written(client, worker):
    await events_of(begin(client, "3"))
    await until(lambda: worker.recorded, "word of the record")
    assert worker.recorded == [worker.runs[0].retention.usage_id]
    assert worker.dropped == []


async def test_who_leaves_a_resumable_stream_leaves_the_record_to_others(client, worker, telemetry):
    await left(client, worker)
    await events_of(begin(client, "3", "call-2"))
    (record,) = await records(telemetry)
    await until(lambda: worker.recorded, "word of the record")
    assert record.request_id == "call-2"
    assert worker.dropped == []
    assert worker.recorded == [record.id]


async def test_who_leaves_another_stream_is_recorded_here(client, worker, telemetry):
    await left(client, worker, resumable=False)
    (record,) = await records(telemetry)
    assert record.status_code == CANCELLED
    await until(lambda: worker.dropped, "word to the worker")
    assert worker.dropped == [record.id]


async def test_a_stream_that_has_not_begun_is_recorded_by_who_began_it(client, worker, telemetry):
    worker.hold_after = 0
    worker.refusals = [Reason.QUEUE_TIMEOUT]
    await failure_of(begin(client, "3"))
    (record,) = await records(telemetry)
    assert record.error_reason == "QUEUE_TIMEOUT"


async def test_a_resumed_stream_begins_again_and_goes_on_where_the_client_is(
    client, worker, streams, telemetry
):
    run = await left(client, worker)
    keep(worker, run, count=150)
    events = [each.event for each in await events_of(resume(streams, client, count=150))]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["started", *["delta"] * 50, "finished", "completed"]
    assert [event.delta.token_offset for event in events[1:-2]] == list(range(150, 200))
    again = worker.runs[-1]
    assert again.retention.usage_id == run.retention.usage_id
    assert list(again.continuation.choices[0].token_ids) == list(range(150))
    assert again.request == run.request
    assert worker.found[0].choices[0].output_tokens == 150


async def test_a_resumed_stream_has_one_record_for_all_of_it(client, worker, streams, telemetry):
    run = await left(client, worker, labels={"team": "red"})
    keep(worker, run, count=150)
    await events_of(resume(streams, client, count=150))
    (record,) = await records(telemetry)
    begun = usage_pb.UsageRecord.FromString(run.retention.usage_record)
    assert (record.id, record.request_id) == (begun.id, "call-1")
    assert record.method == "caravan.inference.v1.InferenceService/StreamGenerate"
    assert (record.status_code, record.output_tokens, record.input_tokens) == (0, 200, 7)
    assert record.start_time.ToNanoseconds() == pytest.approx(begun.start_time.ToNanoseconds())
    assert record.time_to_first_token_ms == pytest.approx(3.0)
    assert dict(record.labels) == {"team": "red"}
    await until(lambda: worker.recorded, "word of the record")
    assert worker.recorded == [begun.id]


async def test_who_leaves_again_may_come_back_again(client, worker, streams, telemetry):
    run = await left(client, worker)
    keep(worker, run, count=10)
    call = resume(streams, client, count=10)
    await call.read()
    await call.read()
    call.cancel()
    await until(lambda: not worker.num_live, "the end of the run")
    keep(worker, run, count=11)
    await events_of(resume(streams, client, count=11))
    (record,) = await records(telemetry)
    assert (record.output_tokens, len(telemetry.records)) == (200, 1)


async def test_nobody_finds_somebody_elses_stream(client, worker, client_of, gateway, policy):
    run = await left(client, worker)
    keep(worker, run, count=1)
    other = client_of(gateway, ADMIN_KEY)
    streams = stream_grpc.StreamServiceStub(other.channel)
    foreign = await failure_of(resume(streams, other, count=1))
    unknown = await failure_of(resume(streams, other, "call-2", count=1))
    assert foreign[0] == unknown[0] == "NOT_FOUND"
    assert foreign[1] == unknown[1]
    assert foreign[1].reason == "STREAM_NOT_KEPT"
    cancel = streams.CancelGenerate(
        stream_pb.CancelGenerateRequest(model="tiny", request_id="call-1"),
        metadata=other.metadata,
    )
    assert (await failure_of(cancel))[1].reason == "STREAM_NOT_KEPT"
    assert worker.stopped == []


async def test_who_may_not_use_the_model_may_not_ask_for_its_streams(
    client_of, gateway, policy, worker
):
    policy.add_key("cvn_reader", principal="reader", permissions={"health"})
    reader = client_of(gateway, "cvn_reader")
    streams = stream_grpc.StreamServiceStub(reader.channel)
    assert (await failure_of(resume(streams, reader)))[0] == "PERMISSION_DENIED"
    assert worker.found == []


async def test_what_was_not_found_leaves_no_record(client, worker, streams, telemetry):
    code, details = await failure_of(resume(streams, client, "nothing"))
    assert (code, details.reason) == ("NOT_FOUND", "STREAM_NOT_KEPT")
    await events_of(begin(client, "3", "call-2"))
    (record,) = await records(telemetry)
    assert record.request_id == "call-2"


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"request_id": "no spaces"}, "request_id"),
        ({"request_id": ""}, "request_id"),
        ({"model": ""}, "model"),
        ({"choices": [stream_pb.ReceivedChoice()] * 17}, "choices"),
    ],
)
async def test_faulty_names_are_refused(client, streams, fields, path):
    request = stream_pb.ResumeGenerateRequest(**{"model": "tiny", "request_id": "a", **fields})
    call = streams.ResumeGenerate(request, metadata=client.metadata, timeout=20)
    code, details = await failure_of(call)
    assert (code, details.reason) == ("INVALID_ARGUMENT", "INVALID_FIELD")
    assert [each.field for each in details.field_violations] == [path]


async def test_a_stream_is_found_wherever_it_is(client, worker, second_worker, streams):
    call = await begun(client, worker)
    call.cancel()
    run = (worker.runs or second_worker.runs)[0]
    keep(second_worker, run, count=1)
    await events_of(resume(streams, client, count=1))
    assert second_worker.runs[-1].continuation.model_digest


async def test_a_worker_that_does_not_answer_is_no_proof(client, worker, streams):
    await left(client, worker)
    await worker.stop()
    code, details = await failure_of(resume(streams, client))
    assert (code, details.reason) == ("UNAVAILABLE", "WORKER_DIED")


async def test_who_lost_the_stream_to_another_reader_leaves_the_record_to_it(
    client, worker, streams, telemetry
):
    worker.refusals = [Reason.RESUMED_ELSEWHERE]
    code, details = await failure_of(begin(client, "3"))
    assert (code, details.reason) == ("ABORTED", "RESUMED_ELSEWHERE")
    await events_of(begin(client, "3", "call-2"))
    (record,) = await records(telemetry)
    assert record.request_id == "call-2"


async def test_cancelling_ends_the_stream_at_its_worker(client, worker, streams):
    run = await left(client, worker)
    keep(worker, run, count=1)
    await streams.CancelGenerate(
        stream_pb.CancelGenerateRequest(model="bundled", request_id="call-1"),
        metadata=client.metadata,
    )
    assert worker.stopped == ["call-1"]


async def test_a_revoked_key_ends_a_resumable_stream_for_good(client, worker, policy, telemetry):
    worker.hold_after = 3
    call = await begun(client, worker)
    policy.revoke(KEY)
    code, details = await ending_of(call)
    assert (code, details.reason) == ("UNAUTHENTICATED", "KEY_REVOKED")
    (record,) = await records(telemetry)
    assert record.error_reason == "KEY_REVOKED"
    await until(lambda: worker.dropped, "word to the worker")
    assert worker.dropped == [record.id]


async def test_a_gateway_that_shuts_down_leaves_its_streams_to_others(
    start_gateway, client_of, worker, telemetry
):
    gateway = await start_gateway()
    client = client_of(gateway)
    worker.hold_after = 3
    call = await begun(client, worker)
    draining = asyncio.create_task(gateway.drain())
    code, details = await ending_of(call)
    await draining
    assert (code, details.reason) == ("UNAVAILABLE", "DRAINING")
    await gateway.stop()
    assert telemetry.records == {}
    assert worker.dropped == []
