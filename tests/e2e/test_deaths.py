"""Random deaths under mixed load: whatever had begun ends whole, and is recorded once.

A short seeded run; `make soak` runs it for long.
"""

import itertools
import os
import random
import re
import signal
import sqlite3
import threading
import time
from dataclasses import dataclass

import grpc
import psutil
import pytest

from caravan.inference.v1 import embedding_pb2 as embedding_pb
from caravan.inference.v1 import generation_pb2 as pb
from caravan.inference.v1 import inference_service_pb2_grpc as inference_grpc
from caravan_rpckit.details import error_details
from caravan_testkit.stack import running_stack
from caravan_testkit.waiting import wait_until

NUM_DEATHS = int(os.environ.get("CARAVAN_SOAK_DEATHS", "8"))
SEED = int(os.environ.get("CARAVAN_SOAK_SEED", "7"))
NUM_CALLERS = 6
SETTINGS = {
    "CARAVAN_ENGINE__CONTEXT__THREADS": "1",
    "CARAVAN_ENGINE__MODELS__REPLICAS": "2",
    "CARAVAN_ENGINE__WORKERS__STABLE_AFTER_S": "0",
    "CARAVAN_ENGINE__WORKERS__HANG_TIMEOUT_S": "4",
    "CARAVAN_ENGINE__WORKERS__DRAIN_TIMEOUT_S": "1",
    "CARAVAN_GATEWAY__FAILOVER__TIMEOUT_S": "120",
    "CARAVAN_GATEWAY__FAILOVER__POISON_WINDOW_S": "0",  # nothing here is any request's fault
}
WORDS = ("tea", "camel", "road", "star", "sand", "well", "moon", "tent", "the", "and")
SAMPLING = (
    pb.SamplingOptions(temperature=0),
    pb.SamplingOptions(temperature=1),
    pb.SamplingOptions(temperature=1, repeat_penalty=1.2, dry=pb.DryOptions(multiplier=0.8)),
    pb.SamplingOptions(temperature=1, xtc=pb.XtcOptions(probability=0.5)),
    pb.SamplingOptions(temperature=1, mirostat=pb.MirostatOptions(tau=4)),
)
STOPS = ((), ("the",), (". ", "\n", "and so"))


@pytest.fixture(scope="module")
def mortal_stack(tmp_path_factory):
    with running_stack(tmp_path_factory.mktemp("deaths") / "home", SETTINGS) as stack:
        yield stack


@dataclass
class Outcome:
    """What became of one call, as its client saw it."""

    request_id: str
    error: str = ""  # code/reason
    has_begun: bool = False
    output_tokens: int = 0


class Caller(threading.Thread):
    """Sends one request after the other until told to stop."""

    def __init__(self, stack, number, ending):
        super().__init__(name=f"caller-{number}")
        self._random = random.Random(SEED * 1000 + number)
        self._ending = ending
        self._stack = stack
        self._names = (f"deaths-{number}-{count}" for count in itertools.count())
        self.outcomes = []
        self.faults = []

    def run(self):
        with grpc.insecure_channel(self._stack.address) as channel:
            stub = inference_grpc.InferenceServiceStub(channel)
            while not self._ending.is_set():
                outcome = Outcome(next(self._names))
                self.outcomes.append(outcome)
                self._call(stub, outcome)

    def _call(self, stub, outcome):
        call = self._random.choices((self._stream, self._generate, self._embed), (8, 1, 1))[0]
        metadata = (
            ("authorization", f"Bearer {self._stack.admin_key}"),
            ("x-request-id", outcome.request_id),
        )
        try:
            call(stub, outcome, {"metadata": metadata, "timeout": 240})
        except grpc.RpcError as error:
            details = error_details(error)
            outcome.error = f"{error.code().name}/{details.reason if details else ''}"
            self._ending.wait(0.2)
        except AssertionError as fault:
            self.faults.append(f"{outcome}: {fault}")

    def _stream(self, stub, outcome, options):
        request = self._request()
        check = StreamCheck(request)
        for event in stub.StreamGenerate(request, **options):
            outcome.has_begun = True
            check.take(event)
        outcome.output_tokens = check.end()

    def _generate(self, stub, outcome, options):
        request = self._request()
        answer = stub.Generate(request, **options)
        outcome.output_tokens = answer.usage.output_tokens
        assert len(answer.choices) == request.choice_count
        assert sum(len(each.token_ids) for each in answer.choices) == outcome.output_tokens

    def _embed(self, stub, _outcome, options):
        text = "tea " * self._random.randrange(1, 200)
        inputs = [embedding_pb.EmbedInput(text=text)] * self._random.randrange(1, 5)
        answer = stub.Embed(embedding_pb.EmbedRequest(model="bundled", inputs=inputs), **options)
        assert len(answer.embeddings) == len(inputs)

    def _request(self):
        draw = self._random
        return pb.GenerateRequest(
            model="bundled",
            text=" ".join(draw.choices(WORDS, k=draw.randrange(3, 60))),
            max_output_tokens=draw.randrange(1, 300),
            ignore_eos=draw.random() < 0.5,
            seed=draw.randrange(2**32),
            sampling=draw.choice(SAMPLING),
            stop=draw.choice(STOPS),
            choice_count=draw.choice((1, 1, 1, 3)),
            logprobs=draw.choice((None, pb.LogprobOptions(top_count=2))),
        )


class StreamCheck:
    """Holds the events of a stream against what was asked for, exactly."""

    def __init__(self, request):
        self._request = request
        self._texts = dict.fromkeys(range(request.choice_count), "")
        self._counts = dict.fromkeys(self._texts, 0)
        self._finished = set()
        self._num_started = 0
        self._completed = None

    def take(self, event):
        assert self._completed is None
        match event.WhichOneof("event"):
            case "started":
                self._num_started += 1
            case "delta":
                self._take_delta(event.delta)
            case "finished":
                index = event.finished.choice_index
                assert index not in self._finished
                assert event.finished.output_tokens == self._counts[index]
                self._finished.add(index)
            case "completed":
                self._completed = event.completed

    def end(self):
        """Returns the number of tokens of a stream that ended well."""
        total = sum(self._counts.values())
        assert self._num_started == 1
        assert self._finished == set(self._texts)
        assert self._completed.usage.output_tokens == total
        for text in self._texts.values():
            assert not any(stop in text for stop in self._request.stop)
        return total

    def _take_delta(self, delta):
        assert delta.choice_index not in self._finished
        assert delta.token_offset == self._counts[delta.choice_index]
        if self._request.HasField("logprobs"):
            assert len(delta.logprobs) == len(delta.token_ids)
        self._counts[delta.choice_index] += len(delta.token_ids)
        self._texts[delta.choice_index] += delta.text


def end_somebody(stack, draw):
    """One death of the deployment, or a process that stands still for a while."""
    kind = draw.choices(("worker", "pause", "host", "restart", "other"), (12, 3, 2, 1, 2))[0]
    workers = stack.workers()
    if kind in ("worker", "pause") and workers:
        worker = draw.choice(workers)
        worker.send_signal(signal.SIGKILL if kind == "worker" else signal.SIGSTOP)
        if kind == "pause":
            time.sleep(draw.uniform(0.1, 6))
            if worker.is_running():
                worker.send_signal(signal.SIGCONT)
        return
    service = draw.choice(("policy", "telemetry")) if kind == "other" else "engine"
    stack.kill(service, signal.SIGTERM if kind == "restart" else signal.SIGKILL)
    stack.start(service)


@pytest.mark.slow
@pytest.mark.timeout(120 + 30 * NUM_DEATHS)
def test_random_deaths_lose_repeat_and_charge_nothing_twice(mortal_stack):
    ending, draw = threading.Event(), random.Random(SEED)
    callers = [Caller(mortal_stack, number, ending) for number in range(NUM_CALLERS)]
    for caller in callers:
        caller.start()
    for _ in range(NUM_DEATHS):
        time.sleep(draw.uniform(1, 3))
        try:
            end_somebody(mortal_stack, draw)
        except psutil.NoSuchProcess:
            continue  # it was quicker
    time.sleep(2)
    ending.set()
    for caller in callers:
        caller.join(300)
        assert not caller.is_alive()
    outcomes = [outcome for caller in callers for outcome in caller.outcomes]
    assert [fault for caller in callers for fault in caller.faults] == []
    # What arrives while nobody is there is told to come back; what has begun ends well.
    assert [each for each in outcomes if each.error and each.has_begun] == []
    assert {each.error.partition("/")[0] for each in outcomes} <= {"", "UNAVAILABLE"}
    assert sum(not each.error for each in outcomes) > NUM_CALLERS
    check_records(mortal_stack, outcomes)
    check_leftovers(mortal_stack)


def check_records(stack, outcomes):
    """A call that went well is recorded once, with exactly its tokens; others at most once."""
    for service in ("policy", "telemetry", "engine"):
        stack.wait_ready(service)
    spooled = "caravan_gateway_usage_spool_depth"
    wait_until(lambda: metric(stack, spooled) == 0, timeout_s=60, what="the records")
    connection = sqlite3.connect(stack.home / "telemetry" / "telemetry.db")
    rows = connection.execute(
        "SELECT request_id, status_code, output_tokens FROM request_records"
        " WHERE request_id LIKE 'deaths-%'"
    ).fetchall()
    connection.close()
    recorded = {request_id: (status, tokens) for request_id, status, tokens in rows}
    assert len(recorded) == len(rows)
    well = {each.request_id: (0, each.output_tokens) for each in outcomes if not each.error}
    assert {key: value for key, value in recorded.items() if key in well} == well


def check_leftovers(stack):
    for name in ("caravan_gateway_worker_calls_active", "caravan_gateway_requests_active"):
        wait_until(lambda name=name: metric(stack, name) == 0, timeout_s=30, what=name)
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
        wait_until(lambda name=name: metric(stack, name, "engine") == 0, timeout_s=30, what=name)


def metric(stack, name, service="gateway"):
    """The sum over all series of a metric."""
    pattern = rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$"
    found = re.findall(pattern, stack.metrics(service), re.MULTILINE)
    return sum(map(float, found))
