"""Streams whose gateway and worker die together, with real processes and the SDK."""

import subprocess
import sys
from pathlib import Path

import pytest
from deployment_numbers import await_record
from resuming_clients import Reader

from caravan_client import Caravan, Sampling
from caravan_testkit.stack import running_stack
from caravan_testkit.waiting import wait_until

SETTINGS = {
    "CARAVAN_ENGINE__CONTEXT__THREADS": "1",
    "CARAVAN_ENGINE__CONTEXT__TOKEN_BUDGET": "48",  # see test_resume
    "CARAVAN_ENGINE__KV__PAGE_SIZE": "32",
    "CARAVAN_ENGINE__KV__DISK_BUDGET_BYTES": str(2**28),
    "CARAVAN_ENGINE__JOURNAL__ENABLED": "true",
    "CARAVAN_ENGINE__WORKERS__MAX_BACKOFF_S": "0.25",
}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recovery")
    with running_stack(folder / "home", SETTINGS) as stack:
        yield stack


def caravan(stack, *arguments):
    command = [str(Path(sys.executable).parent / "caravan"), *arguments]
    environment = {"CARAVAN_ADDRESS": stack.address, "CARAVAN_API_KEY": stack.admin_key}
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    return told.stdout


@pytest.mark.parametrize(
    "sampling",
    [Sampling(temperature=0), Sampling(temperature=1)],
    ids=["greedy", "drawn"],
)
def test_streams_survive_the_death_of_gateway_and_worker(deployment, sampling, request):
    name = request.node.callspec.id
    with Caravan(deployment.address, api_key=deployment.admin_key) as client:
        undisturbed = Reader(client, f"undisturbed-{name}", sampling=sampling).end()
        reader = Reader(client, f"killed-{name}", sampling=sampling)
        reader.await_tokens(40)
        [told] = client.checkpoints.list()
        assert told.journal_bytes > 500
        assert [each.request_id for each in told.requests] == [reader.request_id]
        [worker] = deployment.workers()
        deployment.kill("gateway")
        worker.kill()
        deployment.start("gateway")
        deployment.wait_ready("gateway")
        answer = reader.end()
    assert answer.choices[0].token_ids == undisturbed.choices[0].token_ids
    (_, status, tokens, _) = await_record(deployment, reader.request_id)
    assert (status, tokens) == (0, 400)


def test_what_nobody_needs_is_given_up_on_order(deployment):
    with Caravan(deployment.address, api_key=deployment.admin_key) as client:
        Reader(client, "pages", max_output_tokens=80).end()

        def has_pages():
            return client.checkpoints.list()[0].num_pages > 0

        wait_until(has_pages, timeout_s=20, what="pages on disk")
        assert "bundled#0" in caravan(deployment, "checkpoints", "list")
        assert "pages given up by 1 workers" in caravan(deployment, "checkpoints", "prune")
        assert client.checkpoints.list()[0].num_pages == 0
