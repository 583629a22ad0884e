"""Random deaths under mixed load: whatever had begun ends whole, and is recorded once.

Streams are read by the SDK, which resumes them when their gateway dies.

A short seeded run; `make soak` runs it for long.
"""

import itertools
import os
import random
import signal
import sqlite3
import threading
import time
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass

import psutil
import pytest
from deployment_numbers import await_no_accounts, check_leftovers, metric

from caravan_client import (
    Caravan,
    CaravanError,
    Completed,
    Delta,
    Dry,
    Finished,
    Mirostat,
    Sampling,
    Started,
    Xtc,
)
from caravan_testkit.stack import running_stack
from caravan_testkit.waiting import wait_until

NUM_DEATHS = int(os.environ.get("CARAVAN_SOAK_DEATHS", "10"))
NUM_PAUSES = int(os.environ.get("CARAVAN_SOAK_PAUSES", "10"))
SEED = int(os.environ.get("CARAVAN_SOAK_SEED", "2"))
# How often each is among 10 deaths.
KINDS = {"worker": 4, "host": 1, "restart": 1, "gateway": 3, "other": 1}
NUM_CALLERS = 6
SETTINGS = {
    "CARAVAN_ENGINE__CONTEXT__THREADS": "1",
    "CARAVAN_ENGINE__MODELS__REPLICAS": "2",
    "CARAVAN_ENGINE__WORKERS__STABLE_AFTER_S": "0",
    "CARAVAN_ENGINE__WORKERS__HANG_TIMEOUT_S": "4",
    "CARAVAN_ENGINE__WORKERS__DRAIN_TIMEOUT_S": "1",
    # Streams whose worker and gateway die within a moment are found in the journal.
    "CARAVAN_ENGINE__JOURNAL__ENABLED": "true",
    "CARAVAN_ENGINE__RETENTION__TIME_S": "45",
    "CARAVAN_GATEWAY__FAILOVER__TIMEOUT_S": "120",
    "CARAVAN_GATEWAY__FAILOVER__POISON_WINDOW_S": "0",  # nothing here is any request's fault
}
WORDS = ("tea", "camel", "road", "star", "sand", "well", "moon", "tent", "the", "and")
SAMPLING = (
    Sampling(temperature=0),
    Sampling(temperature=1),
    Sampling(temperature=1, repeat_penalty=1.2, dry=Dry(multiplier=0.8)),
    Sampling(temperature=1, xtc=Xtc(probability=0.5)),
    Sampling(temperature=1, mirostat=Mirostat(tau=4)),
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
        self.num_signs = 0  # of life: events, and calls that ended

    def run(self):
        with Caravan(self._stack.address, api_key=self._stack.admin_key) as client:
            while not self._ending.is_set():
                outcome = Outcome(next(self._names))
                self.outcomes.append(outcome)
                self._call(client, outcome)
                self.num_signs += 1

    def _call(self, client, outcome):
        call = self._random.choices((self._stream, self._generate, self._embed), (8, 1, 1))[0]
        try:
            call(client, outcome)
        except CaravanError as error:
            outcome.error = f"{error.code}/{error.reason}"
            self._ending.wait(0.2)
        except AssertionError as fault:
            self.faults.append(f"{outcome}: {fault}")

    def _stream(self, client, outcome):
        text, options = self._request()
        check = StreamCheck(options)
        with client.stream(text, **options) as stream:
            for event in stream:
                # One that has not begun is repeated under another name.
                outcome.has_begun, outcome.request_id = True, stream.request_id
                self.num_signs += 1
                check.take(event)
        outcome.output_tokens = check.end()

    def _generate(self, client, outcome):
        text, options = self._request()
        answer = client.generate(text, **options)
        outcome.request_id = answer.request_id
        outcome.output_tokens = answer.usage.output_tokens
        assert len(answer.choices) == options["num_choices"]
        assert sum(len(each.token_ids) for each in answer.choices) == outcome.output_tokens

    def _embed(self, client, outcome):
        inputs = ["tea " * self._random.randrange(1, 200)] * self._random.randrange(1, 5)
        answer = client.embed(inputs, model="bundled", timeout_s=240)
        outcome.request_id = answer.request_id
        assert len(answer.embeddings) == len(inputs)

    def _request(self):
        draw = self._random
        text = " ".join(draw.choices(WORDS, k=draw.randrange(3, 60)))
        return text, {
            "model": "bundled",
            "max_output_tokens": draw.randrange(1, 300),
            "ignore_eos": draw.random() < 0.5,
            "seed": draw.randrange(2**32),
            "sampling": draw.choice(SAMPLING),
            "stop": draw.choice(STOPS),
            "num_choices": draw.choice((1, 1, 1, 3)),
            "logprobs": draw.choice((None, 2)),
            "timeout_s": 240,
        }


class StreamCheck:
    """Holds the events of a stream against what was asked for, exactly."""

    def __init__(self, options):
        self._options = options
        self._texts = dict.fromkeys(range(options["num_choices"]), "")
        self._counts = dict.fromkeys(self._texts, 0)
        self._finished = set()
        self._num_started = 0
        self._completed = None

    def take(self, event):
        assert self._completed is None
        match event:
            case Started():
                self._num_started += 1
            case Delta():
                self._take_delta(event)
            case Finished():
                index = event.choice_index
                assert index not in self._finished
                assert event.output_tokens == self._counts[index]
                self._finished.add(index)
            case Completed():
                self._completed = event

    def end(self):
        """Returns the number of tokens of a stream that ended well."""
        total = sum(self._counts.values())
        assert self._num_started == 1
        assert self._finished == set(self._texts)
        assert self._completed.usage.output_tokens == total
        for text in self._texts.values():
            assert not any(stop in text for stop in self._options["stop"])
        return total

    def _take_delta(self, delta):
        assert delta.choice_index not in self._finished
        assert delta.token_offset == self._counts[delta.choice_index]
        if self._options["logprobs"] is not None:
            assert len(delta.logprobs) == len(delta.token_ids)
        self._counts[delta.choice_index] += len(delta.token_ids)
        self._texts[delta.choice_index] += delta.text


def drawn_kinds(draw):
    """Kinds of deaths, and pauses among them, in an order that is drawn."""
    deck = [kind for kind, count in KINDS.items() for _ in range(count)]
    kinds = [*itertools.islice(itertools.cycle(deck), NUM_DEATHS), *["pause"] * NUM_PAUSES]
    draw.shuffle(kinds)
    return kinds


def end_somebody(stack, kind, draw, callers):
    """One death of the deployment, or a process that stands still for a while."""
    workers = stack.workers()
    if kind in ("worker", "pause") and workers:
        worker = draw.choice(workers)
        worker.send_signal(signal.SIGKILL if kind == "worker" else signal.SIGSTOP)
        if kind == "pause":
            time.sleep(draw.choice((0.1, 0.5, 1, 2, 6)))  # the last is taken for a death
            if worker.is_running():
                worker.send_signal(signal.SIGCONT)
        return
    if kind == "gateway":
        end_gateway(stack, draw, callers)
        return
    service = draw.choice(("policy", "telemetry")) if kind == "other" else "engine"
    stack.kill(service, signal.SIGTERM if kind == "restart" else signal.SIGKILL)
    stack.start(service)


def end_gateway(stack, draw, callers):
    """Ends the gateway and waits until all that it served goes on.

    A worker that died meanwhile would take streams with it that nobody but it had.
    """
    stack.kill("gateway", draw.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
    stack.start("gateway")
    stack.wait_ready("gateway")
    before = {caller: caller.num_signs for caller in callers}
    wait_until(
        lambda: all(caller.num_signs > before[caller] for caller in callers),
        timeout_s=90,
        what="signs of all callers",
    )


@pytest.mark.slow
@pytest.mark.timeout(120 + 30 * (NUM_DEATHS + NUM_PAUSES))
def test_random_deaths_lose_repeat_and_charge_nothing_twice(mortal_stack):
    ending, draw = threading.Event(), random.Random(SEED)
    callers = [Caller(mortal_stack, number, ending) for number in range(NUM_CALLERS)]
    for caller in callers:
        caller.start()
    for kind in drawn_kinds(draw):
        time.sleep(draw.uniform(1, 3))
        try:
            end_somebody(mortal_stack, kind, draw, callers)
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
    refused = [each for each in outcomes if each.error]
    assert [each for each in refused if not each.error.startswith("UNAVAILABLE/")] == []
    assert sum(not each.error for each in outcomes) > NUM_CALLERS
    check_records(mortal_stack, outcomes)
    check_leftovers(mortal_stack)


def check_records(stack, outcomes):
    """A call that went well is recorded once, by a gateway and with exactly its tokens.

    No call is recorded twice. Who has an answer has a record: that is on disk before.
    """
    for service in ("policy", "telemetry", "engine", "gateway"):
        stack.wait_ready(service)
    spooled = "caravan_gateway_usage_spool_depth"
    wait_until(lambda: metric(stack, spooled) == 0, timeout_s=60, what="the records")
    well = {each.request_id: (0, each.output_tokens, 0) for each in outcomes if not each.error}
    await_no_accounts(stack)
    found = recorded(stack)
    assert well.keys() - found.keys() == set()
    assert {name: found[name] for name in well} == {name: [value] for name, value in well.items()}
    assert {name: each for name, each in found.items() if len(each) > 1} == {}


def recorded(stack):
    """Status, tokens and whether it is provisional of each record, by the name of its call."""
    with closing(sqlite3.connect(stack.home / "telemetry" / "telemetry.db")) as connection:
        rows = connection.execute(
            "SELECT request_id, status_code, output_tokens, is_provisional FROM request_records"
        ).fetchall()
    found = defaultdict(list)
    for request_id, *values in rows:
        found[request_id].append(tuple(values))
    return found
