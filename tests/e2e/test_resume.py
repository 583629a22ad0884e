"""Streams whose gateway dies or whose connection breaks, with real processes and the SDK."""

import time

import grpc
import pytest
from deployment_numbers import await_record, metric
from resuming_clients import PROMPT, RawClient, Reader, end_of, read_tokens, reason_of

from caravan.inference.v1 import generation_pb2 as pb
from caravan_client import Caravan, Delta, Mirostat, Sampling
from caravan_rpckit.details import error_details
from caravan_testkit.gateways import extra_gateway, forwarder_to
from caravan_testkit.stack import running_stack
from caravan_testkit.waiting import wait_until

SETTINGS = {
    "CARAVAN_ENGINE__CONTEXT__THREADS": "1",
    # With smaller steps than 64 tokens companions change no rounding; see test_failover.
    "CARAVAN_ENGINE__CONTEXT__TOKEN_BUDGET": "48",
    # Long enough for a restarted gateway on a busy machine, short enough to wait for its end.
    "CARAVAN_ENGINE__RETENTION__TIME_S": "15",
    # Some hundred tokens, or a dozen with many log-probabilities.
    "CARAVAN_ENGINE__RETENTION__STREAM_BYTES": "65536",
}
SAMPLINGS = {
    "greedy": Sampling(temperature=0),
    "drawn": Sampling(temperature=1),
    "mirostat": Sampling(temperature=1, mirostat=Mirostat(tau=4)),
}


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    with running_stack(folder / "home", SETTINGS) as stack:
        yield stack


@pytest.fixture(autouse=True)
def gateway_at_the_end(deployment):
    """Whatever a test does to the gateway, the next one finds it."""
    yield
    try:
        deployment.process("gateway")
    except KeyError:
        deployment.start("gateway")
    deployment.wait_ready("gateway")


@pytest.fixture
def second(deployment, tmp_path):
    """A second gateway on the same engine."""
    with extra_gateway(deployment, tmp_path / "second") as gateway:
        yield gateway


def num_running(stack):
    return metric(stack, "vllm:num_requests_running", "engine")


def num_generated(stack):
    return metric(stack, "vllm:generation_tokens_total", "engine")


def stands_still(stack):
    before = num_generated(stack)
    time.sleep(2.5)  # the numbers come once a second
    return num_generated(stack) == before


@pytest.fixture
def raw(deployment):
    """Clients of the deployment, by key."""
    clients = []

    def make(key=None, address=None):
        client = RawClient(address or deployment.address, key or deployment.admin_key)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.channel.close()


@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_stream_survives_the_death_of_its_gateway_with_the_same_text(deployment, second, name):
    with (
        forwarder_to(deployment.address, second.address) as forwarder,
        Caravan(forwarder.address, api_key=deployment.admin_key) as client,
    ):
        reader = Reader(client, f"killed-{name}", sampling=SAMPLINGS[name])
        reader.await_tokens(20)
        deployment.kill("gateway")
        answer = reader.end()
        undisturbed = Reader(client, f"undisturbed-{name}", sampling=SAMPLINGS[name]).end()
        assert answer.choices == undisturbed.choices
    method, status, tokens, _ = await_record(deployment, f"killed-{name}")
    assert method == "caravan.inference.v1.InferenceService/StreamGenerate"
    assert (status, tokens) == (0, answer.usage.output_tokens)


def test_many_streams_survive_the_deaths_of_their_gateways(deployment, second):
    with (
        forwarder_to(deployment.address, second.address) as forwarder,
        Caravan(forwarder.address, api_key=deployment.admin_key) as client,
    ):
        readers = [
            Reader(client, f"many-{number}", num_choices=number % 3 + 1, seed=number)
            for number in range(6)
        ]
        for reader in readers:
            reader.await_tokens(5)
        deployment.restart("gateway")
        second.kill()
        answers = {reader.request_id: reader.end() for reader in readers}
    for request_id, answer in answers.items():
        _, status, tokens, _ = await_record(deployment, request_id)
        assert (status, tokens) == (0, answer.usage.output_tokens)


def test_a_cut_connection_is_a_pause(deployment):
    with (
        forwarder_to(deployment.address) as forwarder,
        Caravan(forwarder.address, api_key=deployment.admin_key) as client,
    ):
        reader = Reader(client, "cut")
        for count in (10, 60, 150):
            reader.await_tokens(count)
            forwarder.cut()
        answer = reader.end()
        assert Reader(client, "uncut").end().text == answer.text
    _, status, tokens, _ = await_record(deployment, "cut")
    assert (status, tokens) == (0, 400)


def test_streams_survive_the_restart_of_the_only_gateway(deployment):
    with Caravan(deployment.address, api_key=deployment.admin_key) as client:
        reader = Reader(client, "restarted", num_choices=2)
        reader.await_tokens(10)
        deployment.restart("gateway")
        answer = reader.end()
        assert answer.usage.output_tokens == 800
    _, status, tokens, reasons = await_record(deployment, "restarted")
    assert (status, tokens, reasons) == (0, 800, '["length", "length"]')


def test_what_nobody_comes_back_for_ends_and_is_recorded_once(deployment, raw):
    # It comes to its bound soon, and waits there.
    call = raw().begin("abandoned", logprobs=pb.LogprobOptions(top_count=20))
    read_tokens(call, 5)
    deployment.kill("gateway")
    deployment.start("gateway")
    deployment.wait_ready("gateway")
    _, status, tokens, _ = await_record(deployment, "abandoned")
    assert status == grpc.StatusCode.CANCELLED.value[0]
    assert 5 <= tokens < 300
    wait_until(lambda: num_running(deployment) == 0, timeout_s=20, what="an idle engine")
    assert reason_of(raw().resume("abandoned", 5)) == ("NOT_FOUND", "STREAM_NOT_KEPT")


def test_what_ended_while_nobody_was_there_is_recorded_as_it_ended(deployment, raw):
    read_tokens(raw().begin("unread", max_output_tokens=50), 1)
    deployment.restart("gateway")
    _, status, tokens, reasons = await_record(deployment, "unread")
    assert (status, tokens, reasons) == (0, 50, '["length"]')


def test_a_stream_that_ended_meanwhile_is_given_to_its_end(deployment, raw):
    client = raw()
    call = client.begin("ended", max_output_tokens=100)
    tokens = read_tokens(call, 5)
    call.cancel()
    wait_until(lambda: num_running(deployment) == 0, timeout_s=20, what="an idle engine")
    events = [each.event for each in raw().resume("ended", len(tokens))]
    assert [event.WhichOneof("event") for event in events[-2:]] == ["finished", "completed"]
    assert events[0].started.request_id == "ended"
    tokens += [token for event in events for token in event.delta.token_ids]
    assert len(tokens) == events[-1].completed.usage.output_tokens == 100
    _, status, recorded, _ = await_record(deployment, "ended")
    assert (status, recorded) == (0, 100)


def test_a_stream_that_waits_for_its_reader_goes_on_when_it_comes(deployment, raw):
    client = raw()
    wait_until(lambda: stands_still(deployment), timeout_s=20, what="the numbers of other tests")
    before = num_generated(deployment)
    # Many times what there is room for on the way to a client that takes its time to leave.
    call = client.begin("full", max_output_tokens=1200, logprobs=pb.LogprobOptions(top_count=20))
    tokens = read_tokens(call, 5)
    call.cancel()
    wait_until(
        lambda: num_generated(deployment) > before and stands_still(deployment),
        timeout_s=20,
        what="a stream that waits",
    )
    assert num_generated(deployment) < before + 1200
    events = [each.event for each in raw().resume("full", len(tokens))]
    offsets = [each.delta.token_offset for each in events if each.HasField("delta")]
    assert offsets[0] == len(tokens)
    tokens += [token for event in events for token in event.delta.token_ids]
    assert len(tokens) == events[-1].completed.usage.output_tokens == 1200


def test_the_latest_of_two_readers_gets_the_rest(deployment, raw):
    client = raw()
    tokens = read_tokens(client.begin("twice", max_output_tokens=300), 5)
    second = client.resume("twice", len(tokens))
    more = read_tokens(second, 5)
    third = client.resume("twice", len(tokens) + len(more))
    rest = [token for each in third for token in each.event.delta.token_ids]
    # On a quick machine all of it was on its way already when the third one came.
    assert end_of(second) in (None, ("ABORTED", "RESUMED_ELSEWHERE"))
    assert len(tokens) + len(more) + len(rest) == 300
    _, status, recorded, _ = await_record(deployment, "twice")
    assert (status, recorded) == (0, 300)


def test_a_closed_stream_is_freed_at_once_and_recorded_once(deployment):
    with Caravan(deployment.address, api_key=deployment.admin_key) as client:
        stream = client.stream(
            PROMPT,
            model="bundled",
            max_output_tokens=4000,
            ignore_eos=True,
            request_id="closed",
        )
        with stream:
            next(event for event in stream if isinstance(event, Delta))
        # Well before its retention ends.
        wait_until(lambda: num_running(deployment) == 0, timeout_s=10, what="an idle engine")
    _, status, tokens, _ = await_record(deployment, "closed", timeout_s=10)
    assert status == grpc.StatusCode.CANCELLED.value[0]
    assert tokens > 0


def test_a_foreign_principal_finds_nothing(deployment, raw):
    with Caravan(deployment.address, api_key=deployment.admin_key) as admin:
        admin.principals.create("stranger", roles=["user"])
        stranger = admin.keys.create("stranger").secret
    owner = raw()
    tokens = read_tokens(owner.begin("mine", max_output_tokens=200), 5)
    other = raw(stranger)
    assert reason_of(other.resume("mine", len(tokens))) == ("NOT_FOUND", "STREAM_NOT_KEPT")
    assert reason_of(other.resume("nobody's", 0))[0] == "INVALID_ARGUMENT"
    assert reason_of(other.resume("nobodys", 0)) == ("NOT_FOUND", "STREAM_NOT_KEPT")
    with pytest.raises(grpc.RpcError) as refused:
        other.cancel("mine")
    assert error_details(refused.value).reason == "STREAM_NOT_KEPT"
    rest = [t for each in owner.resume("mine", len(tokens)) for t in each.event.delta.token_ids]
    assert len(tokens) + len(rest) == 200
