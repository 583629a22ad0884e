"""Streams whose gateway dies or whose connection breaks, with real processes and the SDK."""

import re
import sqlite3
import threading
import time
from contextlib import closing

import grpc
import pytest

from caravan.gateway.v1 import stream_service_pb2 as stream_pb
from caravan.gateway.v1 import stream_service_pb2_grpc as stream_grpc
from caravan.inference.v1 import generation_pb2 as pb
from caravan.inference.v1 import inference_service_pb2_grpc as inference_grpc
from caravan_client import Caravan, CaravanError, Delta, Mirostat, Sampling, Started
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
PROMPT = "Once upon a time there was a caravan that"


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


class Reader(threading.Thread):
    """Reads a stream by the SDK, and checks its accounting."""

    def __init__(self, client, request_id, **options):
        super().__init__(name=request_id)
        self.request_id = request_id
        self.stream = client.stream(
            PROMPT,
            **{
                "model": "bundled",
                "max_output_tokens": 400,
                "ignore_eos": True,
                "seed": 11,
                "request_id": request_id,
                "timeout_s": 120,
                **options,
            },
        )
        self.counts = {}
        self.num_started = 0
        self.error = None
        self.start()

    @property
    def num_tokens(self):
        return sum(self.counts.values())

    def run(self):
        try:
            for event in self.stream:
                self._take(event)
        except (CaravanError, AssertionError) as error:
            self.error = error

    def _take(self, event):
        match event:
            case Started():
                self.num_started += 1
            case Delta():
                assert event.token_offset == self.counts.get(event.choice_index, 0)
                self.counts[event.choice_index] = event.token_offset + len(event.token_ids)

    def await_tokens(self, count):
        wait_until(
            lambda: self.error or self.num_tokens >= count, timeout_s=60, what=f"{count} tokens"
        )

    def end(self):
        """Waits for the end, which must be a good one; returns the answer."""
        self.join(150)
        assert not self.is_alive()
        if self.error is not None:
            raise self.error
        assert self.num_started == 1
        assert self.stream.generation.usage.output_tokens == self.num_tokens
        return self.stream.generation


def records_of(stack, request_id):
    with closing(sqlite3.connect(stack.home / "telemetry" / "telemetry.db")) as connection:
        return connection.execute(
            "SELECT method, status_code, output_tokens, finish_reasons FROM request_records"
            " WHERE request_id = ?",
            (request_id,),
        ).fetchall()


def await_record(stack, request_id, timeout_s=60):
    wait_until(
        lambda: records_of(stack, request_id), timeout_s=timeout_s, what=f"record of {request_id}"
    )
    (record,) = records_of(stack, request_id)
    return record


def metric(text, name):
    found = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def num_running(stack):
    return metric(stack.metrics("engine"), "vllm:num_requests_running")


def num_generated(stack):
    return metric(stack.metrics("engine"), "vllm:generation_tokens_total")


def stands_still(stack):
    before = num_generated(stack)
    time.sleep(2.5)  # the numbers come once a second
    return num_generated(stack) == before


class RawClient:
    """What a client does that has no SDK."""

    def __init__(self, address, key):
        self.channel = grpc.insecure_channel(
            address, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self.metadata = (("authorization", f"Bearer {key}"),)
        self._inference = inference_grpc.InferenceServiceStub(self.channel)
        self._streams = stream_grpc.StreamServiceStub(self.channel)

    def begin(self, request_id, **fields):
        request = pb.GenerateRequest(
            **{
                "model": "bundled",
                "text": PROMPT,
                "max_output_tokens": 300,
                "ignore_eos": True,
                "seed": 5,
                **fields,
            }
        )
        extra = (("x-request-id", request_id), ("x-caravan-resumable", "1"))
        return self._inference.StreamGenerate(
            request, metadata=(*self.metadata, *extra), timeout=120
        )

    def resume(self, request_id, *counts):
        request = stream_pb.ResumeGenerateRequest(
            model="bundled",
            request_id=request_id,
            choices=[stream_pb.ReceivedChoice(output_tokens=count) for count in counts],
        )
        return self._streams.ResumeGenerate(request, metadata=self.metadata, timeout=120)

    def cancel(self, request_id):
        request = stream_pb.CancelGenerateRequest(model="bundled", request_id=request_id)
        self._streams.CancelGenerate(request, metadata=self.metadata, timeout=20)


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


def read_tokens(call, count):
    """Reads a stream until it gave so many tokens; returns them."""
    tokens = []
    for event in call:
        given = event if isinstance(event, pb.GenerateEvent) else event.event
        tokens += given.delta.token_ids
        if len(tokens) >= count:
            return tokens
    raise AssertionError("the stream ended early")


def end_of(call):
    """Code and reason with which a call failed; None if it went well."""
    try:
        for _ in call:
            pass
    except grpc.RpcError as error:
        return error.code().name, error_details(error).reason
    return None


def reason_of(call):
    """The same of a call that must fail."""
    end = end_of(call)
    assert end is not None
    return end


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
    call = client.begin("full", logprobs=pb.LogprobOptions(top_count=20))
    tokens = read_tokens(call, 5)
    call.cancel()
    wait_until(
        lambda: num_generated(deployment) > before and stands_still(deployment),
        timeout_s=20,
        what="a stream that waits",
    )
    assert num_generated(deployment) < before + 300
    events = [each.event for each in raw().resume("full", len(tokens))]
    offsets = [each.delta.token_offset for each in events if each.HasField("delta")]
    assert offsets[0] == len(tokens)
    tokens += [token for event in events for token in event.delta.token_ids]
    assert len(tokens) == events[-1].completed.usage.output_tokens == 300


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
