"""Records of generations of which everybody who knew of them dies."""

import contextlib
import threading

import grpc
import pytest
from deployment_numbers import await_account, await_no_accounts
from slow_model import SLOW

from caravan.inference.v1 import generation_pb2 as pb
from caravan.inference.v1 import inference_service_pb2_grpc as inference_grpc
from caravan_testkit.stack import running_stack
from caravan_testkit.tiny_model import write_tiny_gguf
from caravan_testkit.waiting import wait_until

RETENTION_S = 2
SETTINGS = {
    "CARAVAN_ENGINE__MODELS__LOAD": "slow",
    "CARAVAN_ENGINE__CONTEXT__CELLS": "8192",
    "CARAVAN_ENGINE__CONTEXT__THREADS": "1",
    "CARAVAN_ENGINE__RETENTION__TIME_S": str(RETENTION_S),
    "CARAVAN_ENGINE__WORKERS__MAX_BACKOFF_S": "0.25",
    "CARAVAN_GATEWAY__FAILOVER__TIMEOUT_S": "60",
}
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE.value[0]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    home = tmp_path_factory.mktemp("lost") / "home"
    write_tiny_gguf(home / "models" / "slow.gguf", shape=SLOW)
    with running_stack(home, SETTINGS) as stack:
        yield stack


class Reader(threading.Thread):
    """Reads a stream that can't be resumed; its client is gone when its gateway is."""

    def __init__(self, stack, request_id, *, max_output_tokens=3000):
        super().__init__(name=request_id)
        self.request_id = request_id
        self.num_tokens = 0
        self.is_complete = threading.Event()
        self._channel = grpc.insecure_channel(
            stack.address, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        request = pb.GenerateRequest(
            model="slow", text="tea", max_output_tokens=max_output_tokens, ignore_eos=True
        )
        self._call = inference_grpc.InferenceServiceStub(self._channel).StreamGenerate(
            request,
            metadata=(
                ("authorization", f"Bearer {stack.admin_key}"),
                ("x-request-id", request_id),
            ),
            timeout=240,
        )
        self.start()

    def run(self):
        with contextlib.suppress(grpc.RpcError):
            for event in self._call:
                self.num_tokens += len(event.delta.token_ids)
                if event.HasField("completed"):
                    self.is_complete.set()

    def await_tokens(self, count):
        wait_until(lambda: self.num_tokens >= count, timeout_s=60, what=f"{count} tokens")

    def end(self):
        self.join(200)
        self._channel.close()
        assert not self.is_alive()


def test_the_answer_is_recorded_though_gateway_and_worker_die_right_after_it(deployment):
    reader = Reader(deployment, "answered", max_output_tokens=20)
    assert reader.is_complete.wait(60)
    deployment.kill("gateway")
    [worker] = deployment.workers()
    worker.kill()
    reader.end()
    deployment.start("gateway")
    deployment.wait_ready("gateway")
    assert await_account(deployment, "answered") == (0, 20, 0, 0)


@pytest.mark.parametrize("dies", ["worker", "host"])
def test_a_generation_is_recorded_though_its_gateway_and_the_engine_die(deployment, dies):
    reader = Reader(deployment, f"killed-{dies}")
    reader.await_tokens(400)  # takes seconds, so some were noted
    [worker] = deployment.workers()
    deployment.kill("gateway")
    worker.kill()
    if dies == "host":
        deployment.kill("engine")
        deployment.start("engine")
    reader.end()
    deployment.start("gateway")
    for service in ("engine", "gateway"):
        deployment.wait_ready(service)
    status, tokens, is_provisional, _ = await_account(deployment, f"killed-{dies}")
    assert (status, is_provisional) == (UNAVAILABLE, 1)
    # What was emitted and not yet read may be a few tokens; no more than was computed is charged.
    assert 0 < tokens < reader.num_tokens + 200
    await_no_accounts(deployment)


def test_who_goes_on_elsewhere_is_recorded_whole_whatever_the_dead_worker_left(deployment):
    reader = Reader(deployment, "goes-on")
    reader.await_tokens(300)
    [worker] = deployment.workers()
    worker.kill()
    # What the dead worker knew is there first, and doesn't stay.
    await_account(deployment, "goes-on", lambda found: found and found[0][2] == 1)
    reader.end()
    assert reader.num_tokens == 3000
    record = await_account(deployment, "goes-on", lambda found: found[0][2] == 0)
    assert record == (0, 3000, 0, 1)
    await_no_accounts(deployment)
