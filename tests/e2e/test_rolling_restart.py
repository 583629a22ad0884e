"""Each service is restarted in turn under load, politely: every call ends in its full answer.

Callers use the SDK with its own retries, which cover the moments without a gateway; what had begun
is finished by the service that leaves, or goes on where the gateway takes it.
"""

import itertools
import random
import signal
import sqlite3
import threading
from dataclasses import dataclass

import pytest
from deployment_numbers import check_leftovers, metric
from stream_readers import SETTINGS

from caravan_client import Caravan, Delta, Finished, Started
from caravan_testkit.stack import running_stack
from caravan_testkit.waiting import wait_until

NUM_CALLERS = 6
NUM_TOKENS = 120
ROUNDS = (("policy", "telemetry"), ("engine",), ("gateway",))


@pytest.fixture(scope="module")
def rolling_stack(tmp_path_factory):
    settings = {
        **SETTINGS,
        "CARAVAN_ENGINE__MODELS__REPLICAS": "2",
        "CARAVAN_GATEWAY__FAILOVER__TIMEOUT_S": "120",
        "CARAVAN_GATEWAY__FAILOVER__ARRIVAL_TIMEOUT_S": "120",
        "CARAVAN_GATEWAY__SERVER__DRAIN_TIMEOUT_S": "120",
    }
    with running_stack(tmp_path_factory.mktemp("rolling") / "home", settings) as stack:
        yield stack


@dataclass
class Answer:
    """One call that ended well."""

    request_id: str
    output_tokens: int


class Caller(threading.Thread):
    """Makes one call after the other until told to stop."""

    def __init__(self, stack, number, ending, label):
        super().__init__(name=f"caller-{number}")
        self._client = Caravan(
            stack.address, api_key=stack.admin_key, max_retries=1000, timeout_s=240
        )
        self._ending = ending
        self._random = random.Random(number)
        self._names = (f"rolling-{label}-{number}-{count}" for count in itertools.count())
        self.answers = []
        self.faults = []
        self.num_calls = 0

    def run(self):
        with self._client:
            while not self._ending.is_set():
                self.num_calls += 1
                make = self._random.choice((self._stream, self._stream, self._whole, self._embed))
                try:
                    self.answers.append(make(next(self._names)))
                except Exception as error:  # noqa: BLE001 (whatever it is, the test tells of it)
                    self.faults.append(repr(error))

    def _options(self, name):
        return {
            "model": "bundled",
            "request_id": name,
            "max_output_tokens": NUM_TOKENS,
            "ignore_eos": True,
            "seed": self._random.randrange(2**32),
        }

    def _stream(self, name):
        tokens, num_started, finished = [], 0, None
        with self._client.stream("The caravan came to", **self._options(name)) as events:
            for event in events:
                match event:
                    case Started():
                        num_started += 1
                    case Delta():
                        assert event.token_offset == len(tokens)
                        tokens += event.token_ids
                    case Finished():
                        finished = event
        assert (num_started, len(tokens)) == (1, NUM_TOKENS)
        assert finished is not None
        return Answer(name, len(tokens))

    def _whole(self, name):
        generation = self._client.generate("Once upon a time", **self._options(name))
        assert generation.usage.output_tokens == NUM_TOKENS
        return Answer(name, NUM_TOKENS)

    def _embed(self, name):
        found = self._client.embed(["tea", "sand"], model="bundled", request_id=name)
        assert len(found.embeddings) == 2
        return Answer(name, 0)


def await_progress(callers, what):
    """Waits until each caller has ended some call since now."""
    before = [len(caller.answers) + len(caller.faults) for caller in callers]

    def moved():
        now = [len(caller.answers) + len(caller.faults) for caller in callers]
        return all(new > old for new, old in zip(now, before, strict=True))

    wait_until(moved, timeout_s=120, what=what)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("services", ROUNDS, ids="+".join)
def test_a_rolling_restart_loses_nothing(rolling_stack, services):
    ending = threading.Event()
    callers = [Caller(rolling_stack, number, ending, services[0]) for number in range(NUM_CALLERS)]
    for caller in callers:
        caller.start()
    try:
        await_progress(callers, "calls before the restart")
        for service in services:
            rolling_stack.kill(service, signal.SIGTERM, wait_s=150)
            rolling_stack.start(service)
            rolling_stack.wait_ready(service)
            await_progress(callers, f"calls after the restart of {service}")
    finally:
        ending.set()
        for caller in callers:
            caller.join(300)
    assert [fault for caller in callers for fault in caller.faults] == []
    answers = [answer for caller in callers for answer in caller.answers]
    assert len(answers) == sum(caller.num_calls for caller in callers)
    check_records(rolling_stack, {each.request_id: each.output_tokens for each in answers})
    check_leftovers(rolling_stack)


def check_records(stack, expected):
    """Each call that went well is recorded once, with exactly its tokens."""
    wait_until(
        lambda: metric(stack, "caravan_gateway_usage_spool_depth") == 0,
        timeout_s=60,
        what="the records",
    )
    connection = sqlite3.connect(stack.home / "telemetry" / "telemetry.db")
    rows = connection.execute(
        "SELECT request_id, output_tokens FROM request_records"
        " WHERE status_code = 0 AND request_id LIKE 'rolling-%'"
    ).fetchall()
    connection.close()
    recorded = dict(rows)
    assert len(recorded) == len(rows)
    assert {name: recorded.get(name) for name in expected} == expected
