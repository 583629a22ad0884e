"""Workers that are drained under streams, in a whole deployment with two replicas."""

import signal

import grpc
import pytest
from stream_readers import SAMPLING, SETTINGS, Client, Reader, await_call

from caravan.gateway.v1 import gateway_admin_service_pb2 as gateway_pb
from caravan.gateway.v1 import gateway_admin_service_pb2_grpc as gateway_grpc
from caravan.inference.v1 import inference_service_pb2_grpc as inference_grpc
from caravan.model.v1 import model_service_pb2 as model_pb
from caravan.model.v1 import model_service_pb2_grpc as model_grpc
from caravan_rpckit.details import error_details
from caravan_testkit.stack import running_stack
from caravan_testkit.waiting import wait_until

NUM_TOKENS = 300


@pytest.fixture(scope="module")
def pair_stack(tmp_path_factory):
    settings = {**SETTINGS, "CARAVAN_ENGINE__MODELS__REPLICAS": "2"}
    with running_stack(tmp_path_factory.mktemp("drain") / "home", settings) as stack:
        yield stack


@pytest.fixture
def channel(pair_stack):
    with grpc.insecure_channel(pair_stack.address) as channel:
        yield channel


@pytest.fixture
def client(pair_stack, channel):
    metadata = (("authorization", f"Bearer {pair_stack.admin_key}"),)
    inference = inference_grpc.InferenceServiceStub(channel)
    client = Client(inference, model_grpc.ModelServiceStub(channel), metadata)
    list(
        client.models.LoadModel(
            model_pb.LoadModelRequest(model="bundled", replica_count=2),
            metadata=metadata,
            timeout=60,
        )
    )
    await_call(client)
    return client


@pytest.fixture
def drain(client, channel):
    """Orders what `caravan drain` orders."""
    stub = gateway_grpc.GatewayAdminServiceStub(channel)

    def order(**fields):
        request = gateway_pb.DrainWorkersRequest(model="bundled", **fields)
        return stub.DrainWorkers(request, metadata=client.metadata, timeout=120)

    return order


def begun(client, count=4):
    """Streams of all kinds of sampling, some on each worker."""
    names = list(SAMPLING)
    readers = [
        Reader(client, sampling=SAMPLING[names[number % len(names)]], max_output_tokens=NUM_TOKENS)
        for number in range(count)
    ]
    for reader in readers:
        reader.await_tokens(5)
    return readers


def test_what_a_drained_replica_does_not_finish_goes_on_on_the_other(pair_stack, client, drain):
    readers = begun(client, 6)
    answer = drain(replica_index=0, timeout_ms=0)
    assert answer.worker_count == 1
    for reader in readers:
        assert reader.end().num_tokens == NUM_TOKENS
    assert len(pair_stack.workers()) == 1


def test_with_time_a_drained_replica_finishes_its_streams_itself(client, drain):
    readers = begun(client)
    answer = drain(replica_index=1, timeout_ms=60_000)
    assert (answer.worker_count, answer.unfinished_request_count) == (1, 0)
    for reader in readers:
        assert reader.end().num_tokens == NUM_TOKENS


def test_replicas_are_replaced_one_after_the_other_under_streams(pair_stack, client, drain):
    before = {each.pid for each in pair_stack.workers()}
    readers = begun(client, 6)
    answer = drain(restart=True, timeout_ms=100)
    assert answer.worker_count == 2
    for reader in readers:
        assert reader.end().num_tokens == NUM_TOKENS
    assert len(pair_stack.workers()) == 2
    assert not before & {each.pid for each in pair_stack.workers()}


def test_a_worker_that_is_told_to_end_hands_its_streams_over(pair_stack, client):
    readers = begun(client, 6)
    first = pair_stack.workers()[0]
    first.send_signal(signal.SIGTERM)
    for reader in readers:
        assert reader.end().num_tokens == NUM_TOKENS
    wait_until(lambda: not first.is_running(), timeout_s=30, what="its end")


def test_without_another_worker_what_is_not_finished_ends(client, drain):
    (reader,) = begun(client, 1)
    assert drain(timeout_ms=0).unfinished_request_count == 1
    with pytest.raises(grpc.RpcError) as caught:
        reader.end()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert error_details(caught.value).reason == "DRAINING"
