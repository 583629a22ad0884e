import sqlite3

import grpc
import grpc.aio
import pytest

from caravan.telemetry.v1 import ingest_service_pb2_grpc as ingest_grpc
from caravan_rpckit.details import error_details


async def refused(call) -> tuple[grpc.StatusCode, object]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), error_details(caught.value)


async def test_records_are_stored_once_and_repetitions_are_counted(gateway, batch, scrape):
    answer = await gateway.IngestUsage(batch("a", "b"))
    assert (answer.stored_count, answer.duplicate_count) == (2, 0)
    answer = await gateway.IngestUsage(batch("b", "c"))
    assert (answer.stored_count, answer.duplicate_count) == (1, 1)

    lines = await scrape()
    assert 'caravan_usage_records_total{status="ok"} 3.0' in lines
    assert "caravan_usage_duplicates_total 1.0" in lines
    assert 'caravan_usage_tokens_total{kind="input",model="bundled"} 30.0' in lines
    assert 'caravan_usage_tokens_total{kind="output",model="bundled"} 96.0' in lines
    assert 'caravan_usage_ingest_seconds_count{code="ok"} 2.0' in lines


async def test_an_acknowledged_record_is_in_the_file(app, gateway, batch, home):
    lost = {"status_code": 14, "error_reason": "WORKER_DIED", "failover_count": 2}
    await gateway.IngestUsage(batch("a", **lost))
    connection = sqlite3.connect(home / "telemetry" / "telemetry.db")
    rows = connection.execute(
        "SELECT id, status_code, error_reason, failover_count, labels FROM request_records"
    )
    assert rows.fetchall() == [("a", 14, "WORKER_DIED", 2, '{"team": "search"}')]
    connection.close()


async def test_an_empty_batch_is_acknowledged(gateway, batch):
    answer = await gateway.IngestUsage(batch())
    assert (answer.stored_count, answer.duplicate_count) == (0, 0)


async def test_the_largest_batch_fits_and_one_more_is_refused(gateway, batch):
    answer = await gateway.IngestUsage(batch(*(f"r{n}" for n in range(500))))
    assert answer.stored_count == 500
    code, details = await refused(gateway.IngestUsage(batch(*(f"r{n}" for n in range(501)))))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.reason == "INVALID_FIELD"
    assert [violation.field for violation in details.field_violations] == ["records"]


async def test_a_faulty_record_is_named_and_nothing_is_stored(gateway, batch, scrape):
    request = batch("a", "b")
    request.records[1].duration_ms = float("nan")
    code, details = await refused(gateway.IngestUsage(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = details.field_violations
    assert violation.field == "records[1].duration_ms"
    assert (await gateway.IngestUsage(batch("a"))).stored_count == 1
    assert 'caravan_usage_ingest_seconds_count{code="invalid_argument"} 1.0' in await scrape()


async def test_a_batch_of_faults_still_gets_a_rich_answer(gateway, batch):
    request = batch(*(f"r{n}" for n in range(500)), method="")
    code, details = await refused(gateway.IngestUsage(request))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.field_violations[0].field == "records[0].method"


async def test_a_worker_may_send_what_a_gateway_has_begun_and_each_record_counts_once(
    gateway, engine, batch
):
    assert (await engine.IngestUsage(batch("a"))).stored_count == 1
    assert (await gateway.IngestUsage(batch("a", "b"))).duplicate_count == 1


async def test_a_stranger_of_the_same_ca_is_refused(channel_as, batch):
    stub = ingest_grpc.IngestServiceStub(channel_as("policy"))
    code, details = await refused(stub.IngestUsage(batch("a")))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    assert details.reason == "PEER_NOT_ALLOWED"


async def test_a_caller_without_a_certificate_does_not_get_in(app, batch):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{app.rpc_port}") as channel:
        stub = ingest_grpc.IngestServiceStub(channel)
        code, _ = await refused(stub.IngestUsage(batch("a"), timeout=5))
    assert code is grpc.StatusCode.UNAVAILABLE
