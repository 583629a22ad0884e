import asyncio
import os
import signal
import sqlite3
import sys

import grpc.aio
from gateway_client import KEY, events_of, failure_of, metric, until

from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan_testkit.network import free_port


def _only(telemetry):
    (record,) = telemetry.records.values()
    return record


async def test_a_call_that_went_well_is_recorded_whole(client, telemetry):
    await events_of(
        client.stream(
            "3",
            model="bundled",
            priority=20,
            labels={"team": "a"},
            metadata=(*client.metadata, ("x-request-id", "r-7")),
        )
    )
    await until(lambda: telemetry.records, "the record")

    record = _only(telemetry)
    assert record.id
    assert record.request_id == "r-7"
    assert (record.tenant, record.principal, record.key_id) == ("default", "alice", "id-0")
    assert record.method == "caravan.inference.v1.InferenceService/StreamGenerate"
    assert (record.model, record.model_digest) == ("tiny", "d" * 64)
    assert (record.status_code, record.error_reason) == (0, "")
    assert list(record.finish_reasons) == ["stop_string"]
    assert (record.input_tokens, record.cached_tokens, record.output_tokens) == (7, 2, 3)
    assert record.start_time.seconds > 1_700_000_000
    assert record.duration_ms >= record.time_to_first_token_ms > 0
    assert record.queue_ms == 1.5
    assert record.priority == 20
    assert dict(record.labels) == {"team": "a"}
    assert record.gateway_id == "gateway-under-test"


async def test_each_choice_is_recorded_with_its_finish_reason(client, telemetry):
    await client.generate("choices", choice_count=2)
    await until(lambda: telemetry.records, "the record")

    record = _only(telemetry)
    assert list(record.finish_reasons) == ["length", "end_of_text"]
    assert (record.input_tokens, record.output_tokens) == (7, 5)


async def test_refused_calls_are_recorded_with_their_reason(client, telemetry):
    await failure_of(client.generate(""))
    await failure_of(client.generate(model="missing"))
    await failure_of(client.generate("refuse"))
    await until(lambda: len(telemetry.records) == 3, "the records")

    assert {
        (record.status_code, record.error_reason, record.model)
        for record in telemetry.records.values()
    } == {
        (3, "EMPTY_INPUT", ""),
        (5, "MODEL_NOT_FOUND", ""),
        (3, "CONTEXT_LENGTH_EXCEEDED", "tiny"),
    }


async def test_an_answer_that_grew_too_large_is_recorded_as_such(
    start_gateway, client_of, telemetry
):
    client = client_of(await start_gateway(server={"max_response_bytes": 2048}))
    await failure_of(client.generate("1000"))
    await until(lambda: telemetry.records, "the record")

    record = _only(telemetry)
    assert (record.status_code, record.error_reason) == (3, "INVALID_FIELD")
    assert 0 < record.output_tokens < 1000


async def test_a_denied_call_is_recorded_and_a_strangers_is_not(client, policy, telemetry):
    policy.keys[KEY].permissions = set()
    await failure_of(client.generate(metadata=(("authorization", "Bearer cvn_wrong"),)))
    await failure_of(client.generate())
    await until(lambda: telemetry.records, "the record")

    record = _only(telemetry)
    assert (record.status_code, record.error_reason) == (7, "PERMISSION_DENIED")


async def test_a_cancelled_call_is_recorded_with_what_it_used(client, telemetry, worker):
    worker.pause_s = 0.01
    call = client.stream("1000")
    answers = aiter(call)
    for _ in range(4):
        await anext(answers)
    call.cancel()
    await until(lambda: telemetry.records, "the record")

    record = _only(telemetry)
    assert (record.status_code, record.error_reason) == (1, "CANCELLED")
    assert record.output_tokens >= 3
    assert record.input_tokens == 7


async def test_a_late_and_a_revoked_call_are_recorded_as_such(client, policy, telemetry, worker):
    await failure_of(client.stream("hang", timeout=0.3))
    await until(lambda: telemetry.records, "the record")
    assert _only(telemetry).error_reason == "DEADLINE_EXCEEDED"

    call = client.stream("hang")
    await anext(aiter(call))
    policy.revoke(KEY)
    await failure_of(call)
    await until(lambda: len(telemetry.records) == 2, "the record")
    reasons = {record.error_reason for record in telemetry.records.values()}
    assert reasons == {"DEADLINE_EXCEEDED", "KEY_REVOKED"}


async def test_records_wait_while_telemetry_is_away_and_arrive_once(client, telemetry, gateway):
    await telemetry.stop()
    for _ in range(5):
        await client.generate()
    assert await metric(gateway, "caravan_gateway_usage_spool_depth") == 5

    await telemetry.start()
    await until(lambda: len(telemetry.records) == 5, "the records", timeout_s=20)

    async with asyncio.timeout(5):
        while await metric(gateway, "caravan_gateway_usage_spool_depth"):
            await asyncio.sleep(0.02)
    assert await metric(gateway, "caravan_gateway_usage_records_delivered_total") == 5


async def test_a_batch_without_acknowledgement_is_sent_again(client, telemetry, admin):
    telemetry.acknowledge = False
    await client.generate()
    await until(lambda: telemetry.num_batches >= 2, "the repetition")
    assert len(telemetry.records) == 1
    assert (await _status(admin)).spooled_record_count == 1

    telemetry.acknowledge = True
    async with asyncio.timeout(20):
        while (await _status(admin)).spooled_record_count:
            await asyncio.sleep(0.05)


async def _status(admin):
    return await admin.gateway.GetGatewayStatus(
        gateway_pb.GetGatewayStatusRequest(), metadata=admin.metadata
    )


async def test_a_record_that_telemetry_refuses_does_not_hold_up_the_others(
    client, telemetry, gateway
):
    await telemetry.stop()
    telemetry.refused_ids.add("bad-1")
    for request_id in ("good-1", "bad-1", "good-2"):
        await client.generate(metadata=(*client.metadata, ("x-request-id", request_id)))

    await telemetry.start()
    await until(lambda: len(telemetry.records) == 2, "the records", timeout_s=20)

    async with asyncio.timeout(5):
        while await metric(gateway, "caravan_gateway_usage_spool_depth"):
            await asyncio.sleep(0.02)
    dropped = 'caravan_gateway_usage_records_dropped_total{cause="refused"}'
    assert await metric(gateway, dropped) == 1


async def test_records_outlive_a_stop(start_gateway, client_of, telemetry):
    await telemetry.stop()
    app = await start_gateway()
    await client_of(app).generate()
    await app.drain()
    await app.stop()

    await telemetry.start()
    await start_gateway()
    await until(lambda: len(telemetry.records) == 1, "the record", timeout_s=20)


async def test_a_full_spool_loses_records_loudly_and_no_call(start_gateway, client_of, telemetry):
    await telemetry.stop()
    app = await start_gateway(telemetry={"spool_max_bytes": 65_536, "unwritten_records": 3})
    client = client_of(app)
    labels = {f"{number}": "x" * 255 for number in range(16)}
    for _ in range(40):
        await client.generate(labels=labels)

    dropped = 'caravan_gateway_usage_records_dropped_total{cause="memory_full"}'
    async with asyncio.timeout(5):
        while not await metric(app, dropped):
            await client.generate(labels=labels)


async def test_who_has_an_answer_has_a_record_whenever_the_gateway_dies(
    settings, telemetry, policy, engine, home, client_of, tmp_path
):
    """Each gateway is killed the moment its client has the end of a call."""
    await telemetry.stop()
    made = settings()

    async def whole_stream(client):
        async for event in client.stream():
            if event.HasField("completed"):
                return

    async def refused(client):
        await failure_of(client.generate("refuse"))

    calls = (lambda client: client.generate(), whole_stream, refused)
    for number, call in enumerate(calls):
        process, port = await _spawn(made, tmp_path)
        try:
            client = client_of(_Port(port))
            await _eventually(lambda client=client: client.generate())
            await call(client)
        finally:
            process.send_signal(signal.SIGKILL)
            await process.wait()
        assert _num_spooled(home) == 2 * (number + 1)

    await telemetry.start()
    process, _ = await _spawn(made, tmp_path)
    try:
        await until(lambda: len(telemetry.records) == 6, "the records", timeout_s=20)
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


def _num_spooled(home):
    connection = sqlite3.connect(f"file:{home}/gateway/usage.db?mode=ro", uri=True)
    try:
        return connection.execute("SELECT count(*) FROM records").fetchone()[0]
    finally:
        connection.close()


class _Port:
    def __init__(self, port):
        self.port = port


async def _spawn(settings, folder):
    """A gateway in a process of its own; returns it and its port."""
    port = free_port()
    with (folder / "log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "caravan_gateway"),
            *("--home", str(settings.home)),
            *("--server.address", f"127.0.0.1:{port}"),
            *("--server.ops_address", "127.0.0.1:0"),
            *("--policy.address", settings.policy.address),
            *("--engine.addresses", f'["{settings.engine.addresses[0]}"]'),
            *("--telemetry.address", settings.telemetry.address),
            stderr=log,
            env={**os.environ, "CARAVAN_HOME": str(settings.home)},
        )
    return process, port


async def _eventually(make):
    async with asyncio.timeout(20):
        while True:
            try:
                return await make()
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.05)
