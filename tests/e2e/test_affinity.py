"""Two replicas, and calls that find the one that has their beginning."""

import itertools
import threading

import grpc
import pytest
from stream_readers import SETTINGS, Client, await_call, request

from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.gateway.v1 import gateway_admin_service_pb2_grpc as gateway_grpc
from caravan.inference.v1 import inference_service_pb2_grpc as inference_grpc
from caravan.model.v1 import model_service_pb2_grpc as model_grpc
from caravan_testkit.stack import running_stack
from caravan_testkit.waiting import wait_until

NUM_TEXTS = 8


@pytest.fixture(scope="module")
def adaptive_stack(tmp_path_factory):
    settings = {
        **SETTINGS,
        "CARAVAN_ENGINE__MODELS__REPLICAS": "2",
        "CARAVAN_GATEWAY__ENGINE__ROUTING": "adaptive",
    }
    with running_stack(tmp_path_factory.mktemp("affinity") / "home", settings) as stack:
        yield stack


@pytest.fixture
def channel(adaptive_stack):
    with grpc.insecure_channel(adaptive_stack.address) as channel:
        yield channel


@pytest.fixture
def client(adaptive_stack, channel):
    metadata = (("authorization", f"Bearer {adaptive_stack.admin_key}"),)
    inference = inference_grpc.InferenceServiceStub(channel)
    client = Client(inference, model_grpc.ModelServiceStub(channel), metadata)
    await_call(client)
    return client


@pytest.fixture
def input_tokens(channel, client):
    """Tokens of input that each replica has taken so far."""
    stub = gateway_grpc.GatewayAdminServiceStub(channel)

    def look():
        answer = stub.GetWorkerStats(
            gateway_pb.GetWorkerStatsRequest(), metadata=client.metadata, timeout=10
        )
        return {each.replica_index: _taken(each) for each in answer.workers}

    wait_until(lambda: len(look()) == 2, timeout_s=60, what="both replicas")
    return look


def _taken(stats: stats_pb.WorkerStats) -> int:
    return stats.prefix_query_tokens_total


def text_of(number):
    return f"Caravan number {number} went from well to well. " * 12


def generate(client, text):
    return client.inference.Generate(
        request(text=text, max_output_tokens=4), metadata=client.metadata, timeout=60
    )


def test_texts_are_spread_over_the_replicas(client, input_tokens):
    threads = [
        threading.Thread(target=generate, args=(client, text_of(number)))
        for number in range(NUM_TEXTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    wait_until(
        lambda: len([each for each in input_tokens().values() if each > 100]) == 2,
        timeout_s=30,
        what="texts on both replicas",
    )


def test_the_second_call_with_a_text_goes_to_the_replica_that_has_it(client, input_tokens):
    """By chance it does so every other time: six texts in a row are none."""
    numbers = itertools.count(NUM_TEXTS)

    def finds_its_text():
        text, before = text_of(next(numbers)), sum(input_tokens().values())
        assert generate(client, text).usage.cached_tokens < 100
        wait_until(  # replicas tell of their numbers as often as of their texts
            lambda: sum(input_tokens().values()) > before, timeout_s=30, what="the first call"
        )
        usage = generate(client, text).usage
        return usage.cached_tokens > 0.9 * usage.input_tokens

    in_a_row = 0

    def are_found():
        nonlocal in_a_row
        in_a_row = in_a_row + 1 if finds_its_text() else 0
        return in_a_row == 6

    wait_until(are_found, timeout_s=120, what="six texts in a row")
