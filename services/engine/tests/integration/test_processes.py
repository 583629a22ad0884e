"""What happens to processes: kills, crashes, hangs, locks, ports."""

import asyncio
import os
import signal

import grpc
import pytest

from caravan.model.v1 import model_pb2
from caravan_testkit.waiting import wait_until, wait_until_async


@pytest.fixture
async def own(start_host, view_of):
    """A gateway's view of a host of this test alone, with both models loaded."""
    return await view_of(start_host(load="tiny,slow"))


def gone(host, pids):
    return not any(host.is_alive(pid) for pid in pids)


async def test_a_killed_worker_comes_back_and_its_streams_end_unavailable(own):
    first = await own.endpoint("slow")
    pid = (await own.model("slow")).replicas[0].process_id
    children = own.host.processes()
    call = await own.begin()
    os.kill(pid, signal.SIGKILL)

    with pytest.raises(grpc.aio.AioRpcError) as ended:
        async for _ in call:
            pass
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE

    def replaced(picture):
        return [
            e for e in picture.endpoints if e.model == "slow" and e.worker_id != first.worker_id
        ]

    assert replaced(await own.picture(replaced, timeout_s=10))
    answers = await own.run(worker="slow", model="slow", max_output_tokens=2, within_s=10)
    assert answers[-1].event.HasField("completed")
    replica = (await own.model("slow")).replicas[0]
    assert (replica.restart_count, replica.state) == (1, model_pb2.REPLICA_STATE_READY)
    assert len(own.host.processes()) == len(children)


async def test_a_host_that_starts_never_calls_its_models_unloaded(start_host, view_of):
    view = await view_of(start_host(load="tiny,slow", ready=False))
    states = set()

    def all_ready(picture):
        states.update(model.state for model in picture.models if model.name in ("tiny", "slow"))
        return len(picture.endpoints) == 2

    async def see():
        try:
            return await view.picture(all_ready)
        except grpc.aio.AioRpcError:  # it doesn't listen yet
            return None

    await wait_until_async(see, timeout_s=30, what="both models")
    assert states <= {model_pb2.MODEL_STATE_LOADING, model_pb2.MODEL_STATE_READY}


async def test_a_killed_worker_disturbs_no_other_model(own):
    pid = (await own.model("slow")).replicas[0].process_id
    before = await own.endpoint("tiny")
    os.kill(pid, signal.SIGKILL)

    assert (await own.run())[-1].event.HasField("completed")
    assert (await own.endpoint("tiny")).worker_id == before.worker_id


async def test_three_starts_that_fail_mark_the_replica_failed(start_host, view_of, slow_gguf):
    host = start_host(load="tiny")
    view = await view_of(host)
    path = host.models / "fragile.gguf"
    path.write_bytes(slow_gguf.read_bytes())
    await view.load("fragile")
    pid = (await view.model("fragile")).replicas[0].process_id
    path.unlink()
    os.kill(pid, signal.SIGKILL)

    def failed(picture):
        return [
            model
            for model in picture.models
            if model.name == "fragile" and model.state == model_pb2.MODEL_STATE_FAILED
        ]

    (model,) = failed(await view.picture(failed))
    assert model.state_detail
    assert model.replicas[0].state == model_pb2.REPLICA_STATE_FAILED
    assert model.replicas[0].restart_count == 3
    assert not model.replicas[0].HasField("process_id")
    assert (await view.run())[-1].event.HasField("completed")


async def test_a_killed_host_takes_its_workers_and_their_helpers_with_it(own):
    call = await own.begin()
    pids = own.host.processes()
    assert len(pids) == 4  # two workers, each with a template renderer
    own.host.stop(signal.SIGKILL)

    wait_until(lambda: gone(own.host, pids), timeout_s=10, what="the workers to end")
    call.cancel()


async def test_a_killed_host_can_be_started_again_at_once(own, start_host, view_of):
    own.host.stop(signal.SIGKILL)
    again = await view_of(start_host(home=own.host.home))

    assert (await again.run(within_s=10))[-1].event.HasField("completed")


async def test_sigterm_lets_running_requests_finish_and_leaves_nothing(own):
    pids = own.host.processes()
    call = await own.begin(max_output_tokens=60)
    own.host.process.send_signal(signal.SIGTERM)
    kinds = [answer.event.WhichOneof("event") async for answer in call]

    assert kinds[-1] == "completed"
    assert await asyncio.to_thread(own.host.process.wait, 30) == 0
    assert gone(own.host, pids)


async def test_sigterm_is_bounded_by_the_drain_timeout(start_host, view_of):
    host = start_host("--workers.drain-timeout-s", "0.2", load="slow")
    view = await view_of(host)
    pids = host.processes()
    call = await view.begin()
    host.process.send_signal(signal.SIGTERM)

    with pytest.raises(grpc.aio.AioRpcError) as ended:
        async for _ in call:
            pass
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert await asyncio.to_thread(host.process.wait, 30) == 0
    assert gone(host, pids)


async def test_sigterm_while_a_model_is_loading_ends_everything(start_host, tiny_gguf):
    host = start_host("--workers.initial-backoff-s", "60", load="nothing,tiny", ready=False)
    wait_until(lambda: host.log_text() or host.processes(), timeout_s=20, what="a sign of life")

    assert host.stop() in (0, -signal.SIGTERM)
    wait_until(lambda: not host.processes(), timeout_s=10, what="the processes to end")


async def test_a_worker_told_to_end_drains_by_itself(own):
    pid = (await own.model("slow")).replicas[0].process_id
    call = await own.begin(max_output_tokens=60)
    os.kill(pid, signal.SIGTERM)
    kinds = [answer.event.WhichOneof("event") async for answer in call]

    assert kinds[-1] == "completed"
    wait_until(lambda: not own.host.is_alive(pid), timeout_s=10, what="the worker to end")


async def test_a_stopped_worker_does_not_stop_the_host(own):
    pid = (await own.model("slow")).replicas[0].process_id
    os.kill(pid, signal.SIGSTOP)
    try:
        assert (await own.run())[-1].event.HasField("completed")
        assert await asyncio.to_thread(own.host.stop) == 0
    finally:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def test_two_hosts_cannot_share_a_data_directory(start_host):
    first = start_host()
    second = start_host(home=first.home, ready=False)

    assert second.process.wait(timeout=20) == 3
    assert "DATA_DIRECTORY_IN_USE" in second.log_text()
    assert str(first.process.pid) in second.log_text()


@pytest.mark.parametrize("flag", ["--server.address", "--server.ops-address"])
def test_a_taken_port_is_refused_clearly(start_host, flag):
    first = start_host()
    port = first.port if flag == "--server.address" else first.ops_port
    second = start_host(flag, f"127.0.0.1:{port}", ready=False)

    assert second.process.wait(timeout=20) == 3
    assert "ADDRESS_IN_USE" in second.log_text()
    assert str(port) in second.log_text()


async def test_a_host_without_a_loadable_model_says_so_and_can_be_mended(start_host, view_of):
    host = start_host(load="nothing", ready=False)
    wait_until(lambda: "none of the models" in _not_ready(host), timeout_s=20, what="the reason")
    view = await view_of(host)
    await view.load("tiny")

    await wait_until_async(lambda: _is_ready(host), timeout_s=10, what="the host to be ready")


async def _is_ready(host):
    return '"ready"' in await asyncio.to_thread(host.fetch, "/health/ready")


def _not_ready(host):
    return host.fetch_failure("/health/ready")
