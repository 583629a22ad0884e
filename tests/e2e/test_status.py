"""The numbers of workers on their way through host and gateway to whoever may see them."""

import json
import os
import subprocess
import sys

import grpc
import pytest

from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.inference.v1 import generation_pb2 as generation_pb
from caravan_testkit.waiting import wait_until

PROMPT = "Once upon a time a canary sang"


def numbers(client):
    answer = client.gateway.GetWorkerStats(
        gateway_pb.GetWorkerStatsRequest(), metadata=client.metadata, timeout=10
    )
    assert not answer.missing_hosts
    return answer.workers[0]


def test_who_may_see_metrics_sees_what_was_computed_and_no_prompt(stack, admin, connect):
    before = numbers(admin)
    request = generation_pb.GenerateRequest(model="bundled", text=PROMPT, max_output_tokens=5)
    answer = admin.inference.Generate(request, metadata=admin.metadata, timeout=60)

    reader = connect(admin.create_key("watcher", "readonly").secret)
    # At least: what earlier tests computed a moment ago may not have been in the numbers yet.
    wanted = before.output_tokens_total + answer.usage.output_tokens
    wait_until(
        lambda: numbers(reader).output_tokens_total >= wanted, timeout_s=30, what="the numbers"
    )

    key = reader.metadata[0][1].removeprefix("Bearer ")
    shown = subprocess.run(
        [sys.executable, "-m", "caravan_client", "status", "--json"],
        env={**os.environ, "CARAVAN_ADDRESS": stack.address, "CARAVAN_API_KEY": key},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    worker = json.loads(shown.stdout)["workers"][0]
    assert worker["output_tokens"] >= wanted
    assert worker["memory"]["kept_by"] == "pages"
    assert "canary" not in shown.stdout


def test_who_may_only_infer_sees_no_numbers(admin, connect):
    user = connect(admin.create_key("plain", "user").secret)
    with pytest.raises(grpc.RpcError) as refused:
        numbers(user)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
