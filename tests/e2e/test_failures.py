"""Processes that die, clients that leave, keys and prompts that must not leak."""

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time

import grpc
import pytest

from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.inference.v1 import generation_pb2 as pb
from caravan.model.v1 import model_service_pb2 as model_pb
from caravan_rpckit.details import error_details
from caravan_testkit.stack import SERVICES
from caravan_testkit.waiting import wait_until

RECOVERY_S = 10.0


def request(**fields):
    defaults = {
        "model": "bundled",
        "text": "Once upon a time",
        "max_output_tokens": 8,
        "sampling": pb.SamplingOptions(temperature=0),
    }
    return pb.GenerateRequest(**{**defaults, **fields})


def generate(client, **fields):
    return client.inference.Generate(request(**fields), metadata=client.metadata, timeout=30)


def works(client):
    try:
        return len(generate(client).choices[0].token_ids) == 8
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return False
        raise


def gateway_status(client):
    return client.gateway.GetGatewayStatus(
        gateway_pb.GetGatewayStatusRequest(), metadata=client.metadata, timeout=10
    )


def long_stream(client):
    return client.inference.StreamGenerate(
        request(max_output_tokens=1500, ignore_eos=True), metadata=client.metadata, timeout=120
    )


def worker_metric(stack, name):
    found = re.search(rf"^{name}\{{[^}}]*\}} (\S+)$", stack.metrics("engine"), re.MULTILINE)
    assert found, name
    return float(found.group(1))


@pytest.mark.parametrize("service", SERVICES)
def test_a_killed_service_works_again_after_its_restart(stack, admin, service):
    generate(admin)
    stack.kill(service)
    stack.start(service)
    stack.wait_ready(service)
    wait_until(lambda: works(admin), timeout_s=RECOVERY_S, what=f"a call after {service} died")


def test_a_killed_worker_is_replaced_and_its_stream_goes_on(stack, admin):
    stream = admin.inference.StreamGenerate(
        request(max_output_tokens=400, ignore_eos=True), metadata=admin.metadata, timeout=120
    )
    assert next(stream).WhichOneof("event") == "started"
    assert next(stream).WhichOneof("event") == "delta"
    host = stack.process("engine").pid
    [worker] = stack.workers()
    worker.kill()
    kinds = [event.WhichOneof("event") for event in stream]
    assert "started" not in kinds
    assert kinds[-2:] == ["finished", "completed"]
    assert stack.process("engine").pid == host
    assert [w.pid for w in stack.workers()] != [worker.pid]


def test_a_killed_host_takes_its_workers_along(stack, admin):
    workers = stack.workers()
    assert workers
    stack.kill("engine")
    wait_until(
        lambda: not any(w.is_running() for w in workers), timeout_s=RECOVERY_S, what="workers"
    )
    stack.start("engine")
    stack.wait_ready("engine")
    wait_until(lambda: works(admin), timeout_s=RECOVERY_S, what="a call after the host died")


def test_a_service_ends_cleanly_when_asked_to(stack, admin):
    for service in ("gateway", "engine"):
        stack.kill(service, signal.SIGTERM)
        stack.start(service)
        stack.wait_ready(service)
    wait_until(lambda: works(admin), timeout_s=RECOVERY_S, what="a call after the restarts")


@pytest.mark.parametrize("service", SERVICES)
def test_a_second_instance_on_the_data_directory_is_refused(stack, service):
    environment = stack.environment()
    environment[f"CARAVAN_{service.upper()}__SERVER__ADDRESS"] = "127.0.0.1:0"
    environment[f"CARAVAN_{service.upper()}__SERVER__OPS_ADDRESS"] = "127.0.0.1:0"
    result = run_service(service, environment)
    assert result.returncode == 3
    assert "DATA_DIRECTORY_IN_USE" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_a_taken_port_is_refused(stack, service, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "certs").symlink_to(stack.home / "certs")
    environment = stack.environment() | {
        "CARAVAN_HOME": str(home),
        f"CARAVAN_{service.upper()}__SERVER__OPS_ADDRESS": "127.0.0.1:0",
    }
    result = run_service(service, environment)
    assert result.returncode == 3
    assert "ADDRESS_IN_USE" in result.stderr
    assert "Traceback" not in result.stderr


def run_service(service, environment):
    return subprocess.run(
        [sys.executable, "-m", f"caravan_{service}"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
def test_a_thousand_disconnects_leave_nothing_behind(stack, admin):
    for _ in range(20):  # reach the number of threads and files that load needs
        generate(admin)
    before = footprint(stack)
    generator = random.Random(7)
    leavers = [
        threading.Thread(target=leave_early, args=(stack, admin, generator.random(), 125))
        for _ in range(8)
    ]
    for thread in leavers:
        thread.start()
    for thread in leavers:
        thread.join(240)
        assert not thread.is_alive()
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
        wait_until(lambda name=name: worker_metric(stack, name) == 0, timeout_s=15, what=name)
    wait_until(
        lambda: worker_metric(stack, "vllm:kv_cache_usage_perc") == 0, timeout_s=15, what="cells"
    )
    # The status call counts itself.
    wait_until(lambda: gateway_status(admin).active_call_count <= 1, timeout_s=15, what="calls")
    wait_until(
        lambda: gateway_status(admin).spooled_record_count == 0, timeout_s=30, what="the spool"
    )
    assert works(admin)
    wait_until(
        lambda: not grown(before, footprint(stack)),
        timeout_s=30,
        what=f"threads and files {before}",
    )


def leave_early(stack, admin, seed, count):
    generator = random.Random(seed)
    for _ in range(count):
        stream = long_stream(admin)
        for _ in range(generator.randrange(3)):
            next(stream)
        time.sleep(generator.random() * 0.01)
        stream.cancel()


def footprint(stack):
    """Threads and open files of every process of the deployment."""
    processes = {name: stack.process(name) for name in SERVICES}
    processes["worker"] = stack.workers()[0]
    return {name: (p.num_threads(), p.num_fds()) for name, p in processes.items()}


def grown(before, after):
    """Which processes have clearly more threads or files than before."""
    return {
        name: (before[name], after[name])
        for name in before
        if any(now > then + 5 for then, now in zip(before[name], after[name], strict=True))
    }


def test_no_prompt_and_no_key_reaches_what_is_written(stack, admin, connect):
    canary = "xyzzy-canary-4711"
    created = admin.create_key("canary", "user")
    client = connect(created.secret)
    generate(client, text=f"Remember {canary}")
    chat = pb.Chat(
        messages=[pb.ChatMessage(role=pb.CHAT_ROLE_USER, content=f"{canary} <|im_end|>")]
    )
    generate(client, chat=chat, stop=[canary], labels={})
    for broken in (
        {"text": f"{canary} " * 20_000},
        {"sampling": pb.SamplingOptions(top_p=9), "text": canary},
    ):
        with pytest.raises(grpc.RpcError) as caught:
            generate(client, **broken)
        assert canary not in str(caught.value.details())
        assert canary not in str(error_details(caught.value))
    wrong = connect(f"cvn_{canary}")
    with pytest.raises(grpc.RpcError) as caught:
        generate(wrong)
    assert canary not in str(caught.value)
    wait_until(
        lambda: gateway_status(admin).spooled_record_count == 0, timeout_s=30, what="the spool"
    )
    metrics = "".join(stack.metrics(service) for service in SERVICES)
    written = everything_written(stack, skip=("admin.key",)) + metrics.encode()
    for hidden in (canary, created.secret, stack.admin_key):
        assert hidden.encode() not in written


def everything_written(stack, *, skip):
    """All files of the deployment: logs with each process's stderr, databases, spools."""
    contents = [
        path.read_bytes()
        for path in sorted(stack.home.rglob("*"))
        if path.is_file() and path.name not in skip and os.access(path, os.R_OK)
    ]
    return b"\n".join(contents)


def test_a_model_is_unloaded_and_loaded_again(stack, admin):
    answer = admin.models.UnloadModel(
        model_pb.UnloadModelRequest(model="bundled"), metadata=admin.metadata, timeout=60
    )
    assert answer.ended_request_count == 0
    with pytest.raises(grpc.RpcError) as caught:
        generate(admin)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    steps = list(
        admin.models.LoadModel(
            model_pb.LoadModelRequest(model="bundled"), metadata=admin.metadata, timeout=60
        )
    )
    assert steps[-1].phase == model_pb.LOAD_PHASE_READY
    wait_until(lambda: works(admin), timeout_s=RECOVERY_S, what="a call after loading")
