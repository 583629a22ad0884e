"""Workers that die or hang under running calls, in a whole deployment with the bundled model."""

import re
import signal
import time

import grpc
import pytest
from stream_readers import SAMPLING, SETTINGS, Client, Reader, await_call, request

from caravan.inference.v1 import embedding_pb2 as embedding_pb
from caravan.inference.v1 import generation_pb2 as pb
from caravan.inference.v1 import inference_service_pb2_grpc as inference_grpc
from caravan.model.v1 import model_service_pb2 as model_pb
from caravan.model.v1 import model_service_pb2_grpc as model_grpc
from caravan_rpckit.details import error_details
from caravan_testkit.stack import running_stack
from caravan_testkit.waiting import wait_until


@pytest.fixture(scope="module")
def lossy_stack(tmp_path_factory):
    with running_stack(tmp_path_factory.mktemp("failover") / "home", SETTINGS) as stack:
        yield stack


@pytest.fixture
def client(lossy_stack):
    with grpc.insecure_channel(lossy_stack.address) as channel:
        metadata = (("authorization", f"Bearer {lossy_stack.admin_key}"),)
        inference = inference_grpc.InferenceServiceStub(channel)
        client = Client(inference, model_grpc.ModelServiceStub(channel), metadata)
        await_call(client)
        yield client


def kill_worker(stack, sign=signal.SIGKILL):
    [worker] = stack.workers()
    worker.send_signal(sign)
    return worker


def kill_worker_under(stack, readers):
    """Kills the worker; returns how many readers had not come to the end of their text."""
    worker = kill_worker(stack, signal.SIGSTOP)
    seen = -1
    while seen != (seen := sum(each.num_tokens for each in readers)):
        time.sleep(1)  # what had left the worker arrives
    num_reading = sum(each.completed is None for each in readers)
    worker.kill()
    return num_reading


def failovers(stack, outcome):
    pattern = rf'^caravan_gateway_failovers_total\{{outcome="{outcome}"\}} (\S+)$'
    found = re.search(pattern, stack.metrics("gateway"), re.MULTILINE)
    return float(found.group(1)) if found else 0.0


@pytest.mark.parametrize("name", SAMPLING)
def test_a_lone_stream_is_the_same_whether_its_worker_dies_or_not(lossy_stack, client, name):
    fields = {"sampling": SAMPLING[name], "stop": ["no such text"], "max_output_tokens": 300}
    undisturbed = Reader(client, **fields).end()
    disturbed = Reader(client, **fields)
    disturbed.await_tokens(20)
    kill_worker(lossy_stack)
    disturbed.end()
    assert disturbed.num_tokens == 300
    assert disturbed.output == undisturbed.output


def test_many_streams_of_all_kinds_survive_a_death(lossy_stack, client):
    before = failovers(lossy_stack, "continued")
    readers = {
        name: Reader(client, sampling=options, max_output_tokens=250)
        for name, options in SAMPLING.items()
    }
    readers["choices"] = Reader(
        client,
        sampling=SAMPLING["mirostat"],
        choice_count=3,
        logprobs=pb.LogprobOptions(top_count=2),
        max_output_tokens=250,
    )
    readers["stops"] = Reader(client, stop=["zq", "caravanserai", "\n\n\n"], max_output_tokens=250)
    for reader in readers.values():
        reader.await_tokens(5)
    num_reading = kill_worker_under(lossy_stack, readers.values())
    assert num_reading > 1
    for name, reader in readers.items():
        reader.end()
        num_choices = 3 if name == "choices" else 1
        assert sorted(reader.choices) == list(range(num_choices))
        if name != "stops":
            assert reader.num_tokens == 250 * num_choices
    for choice in readers["choices"].choices.values():
        assert len(choice.logprobs) == len(choice.tokens)
        assert all(len(each.top) == 2 for each in choice.logprobs)
    assert failovers(lossy_stack, "continued") - before == num_reading


def test_answers_that_are_not_streamed_survive_a_death(lossy_stack, client):
    answer = client.inference.Generate.future(
        request(max_output_tokens=400), metadata=client.metadata, timeout=120
    )
    texts = [embedding_pb.EmbedInput(text="tea " * 200) for _ in range(10)]
    vectors = client.inference.Embed.future(
        embedding_pb.EmbedRequest(model="bundled", inputs=texts),
        metadata=client.metadata,
        timeout=120,
    )
    watched = Reader(client)
    watched.await_tokens(5)
    assert not answer.done()
    kill_worker(lossy_stack)
    (choice,) = answer.result().choices
    assert len(choice.token_ids) == 400
    assert len(vectors.result().embeddings) == 10
    watched.end()


def test_a_worker_that_hangs_is_replaced_under_its_streams(lossy_stack, client):
    reader = Reader(client, max_output_tokens=300)
    reader.await_tokens(10)
    stopped = kill_worker(lossy_stack, signal.SIGSTOP)
    reader.end()
    assert reader.num_tokens == 300
    assert not stopped.is_running()


def test_a_worker_that_only_paused_goes_on_by_itself(lossy_stack, client):
    reader = Reader(client, max_output_tokens=300)
    reader.await_tokens(10)
    worker = kill_worker(lossy_stack, signal.SIGSTOP)
    time.sleep(2)
    worker.send_signal(signal.SIGCONT)
    reader.end()
    assert [each.pid for each in lossy_stack.workers()] == [worker.pid]


def test_a_host_that_dies_with_its_worker_is_waited_for(lossy_stack, client):
    reader = Reader(client, max_output_tokens=300)
    reader.await_tokens(10)
    lossy_stack.kill("engine")
    lossy_stack.start("engine")
    reader.end()
    assert reader.num_tokens == 300


def test_a_request_that_was_at_two_deaths_fails_and_another_one_goes_on(lossy_stack, client):
    poison = Reader(client, max_output_tokens=1500)
    poison.await_tokens(5)
    killed = kill_worker(lossy_stack)
    wait_until(
        lambda: [each.pid for each in lossy_stack.workers()] not in ([], [killed.pid]),
        timeout_s=30,
        what="the restart",
    )
    poison.await_tokens(poison.num_tokens + 5)
    innocent = Reader(client, max_output_tokens=200)
    innocent.await_tokens(5)
    kill_worker(lossy_stack)
    with pytest.raises(grpc.RpcError) as caught:
        poison.end()
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert error_details(caught.value).reason == "POISON_REQUEST"
    innocent.end()
    assert innocent.num_tokens == 200


@pytest.fixture
def two_workers(lossy_stack, client):
    def load(count):
        steps = client.models.LoadModel(
            model_pb.LoadModelRequest(model="bundled", replica_count=count),
            metadata=client.metadata,
            timeout=60,
        )
        assert list(steps)[-1].phase == model_pb.LOAD_PHASE_READY

    load(2)
    yield lossy_stack.workers()
    load(1)
    wait_until(lambda: len(lossy_stack.workers()) == 1, timeout_s=30, what="one worker")


def test_streams_go_on_on_the_other_replica_without_waiting(lossy_stack, client, two_workers):
    assert len(two_workers) == 2
    readers = [Reader(client, max_output_tokens=300) for _ in range(6)]
    for reader in readers:
        reader.await_tokens(5)
    two_workers[0].send_signal(signal.SIGKILL)
    for reader in readers:
        assert reader.end().num_tokens == 300


def test_a_worker_too_many_is_drained_and_loses_nothing(lossy_stack, client, two_workers):
    readers = [Reader(client, max_output_tokens=200) for _ in range(4)]
    for reader in readers:
        reader.await_tokens(5)
    list(
        client.models.LoadModel(
            model_pb.LoadModelRequest(model="bundled", replica_count=1), metadata=client.metadata
        )
    )
    for reader in readers:
        assert reader.end().num_tokens == 200
    wait_until(lambda: len(lossy_stack.workers()) == 1, timeout_s=30, what="the end of the other")


def test_a_host_that_restarts_takes_its_streams_along(lossy_stack, client):
    """They are cut off when the time to drain is over, and wait for the host to come back."""
    reader = Reader(client, max_output_tokens=1500)
    reader.await_tokens(10)
    lossy_stack.kill("engine", signal.SIGTERM)
    lossy_stack.start("engine")
    assert reader.end().num_tokens == 1500
