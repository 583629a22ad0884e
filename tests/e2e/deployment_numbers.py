"""What a running deployment counted and recorded, as an operator reads it."""

import re
import sqlite3
from contextlib import closing

from caravan_testkit.waiting import wait_until


def check_leftovers(stack):
    for name in ("caravan_gateway_worker_calls_active", "caravan_gateway_requests_active"):
        wait_until(lambda name=name: metric(stack, name) == 0, timeout_s=30, what=name)
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
        wait_until(lambda name=name: metric(stack, name, "engine") == 0, timeout_s=30, what=name)


def metric(stack, name, service="gateway"):
    """The sum over all series of a metric."""
    pattern = rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$"
    found = re.findall(pattern, stack.metrics(service), re.MULTILINE)
    return sum(map(float, found))


def records_of(stack, request_id):
    with closing(sqlite3.connect(stack.home / "telemetry" / "telemetry.db")) as connection:
        return connection.execute(
            "SELECT method, status_code, output_tokens, finish_reasons FROM request_records"
            " WHERE request_id = ?",
            (request_id,),
        ).fetchall()


def await_record(stack, request_id, timeout_s=60):
    wait_until(
        lambda: records_of(stack, request_id), timeout_s=timeout_s, what=f"record of {request_id}"
    )
    (record,) = records_of(stack, request_id)
    return record
