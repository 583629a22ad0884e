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
    """Its records, but what a dead worker left while a gateway goes on."""
    return _select(
        stack,
        "SELECT method, status_code, output_tokens, finish_reasons FROM request_records"
        " WHERE request_id = ? AND NOT (is_provisional AND error_reason = 'WORKER_DIED')",
        request_id,
    )


def accounts_of(stack, request_id):
    """Status, tokens, whether it is provisional, and failovers of each record of a call."""
    return _select(
        stack,
        "SELECT status_code, output_tokens, is_provisional, failover_count FROM request_records"
        " WHERE request_id = ?",
        request_id,
    )


def _select(stack, statement, *values):
    with closing(sqlite3.connect(stack.home / "telemetry" / "telemetry.db")) as connection:
        return connection.execute(statement, values).fetchall()


def await_account(stack, request_id, condition=bool):
    """Waits until the one record of a call is as it should be, and returns it."""
    wait_until(
        lambda: condition(accounts_of(stack, request_id)),
        timeout_s=90,
        what=f"the record of {request_id}",
    )
    (record,) = accounts_of(stack, request_id)
    return record


def await_no_accounts(stack):
    """Waits until no account of a dead worker is left; those that live have theirs."""
    folder = stack.home / "engine" / "accounts"

    def none():
        held = {file.path for worker in stack.workers() for file in worker.open_files()}
        return all(str(path) in held for path in folder.glob("*.db"))

    wait_until(none, timeout_s=150, what="the end of the accounts of dead workers")
    assert list(folder.glob("*.damaged")) == []


def await_record(stack, request_id, timeout_s=60):
    wait_until(
        lambda: records_of(stack, request_id), timeout_s=timeout_s, what=f"record of {request_id}"
    )
    (record,) = records_of(stack, request_id)
    return record
