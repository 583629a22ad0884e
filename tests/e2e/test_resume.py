"""Streams whose gateway dies or whose connection breaks, with real processes and the SDK."""

import re
import sqlite3
import threading
from contextlib import closing

import pytest

from caravan_client import Caravan, CaravanError, Delta, Sampling, Started
from caravan_testkit.gateways import extra_gateway, forwarder_to
from caravan_testkit.stack import running_stack
from caravan_testkit.waiting import wait_until

SETTINGS = {
    "CARAVAN_ENGINE__CONTEXT__THREADS": "1",
    # With smaller steps than 64 tokens companions change no rounding; see test_failover.
    "CARAVAN_ENGINE__CONTEXT__TOKEN_BUDGET": "48",
    "CARAVAN_ENGINE__RETENTION__TIME_S": "30",
}
PROMPT = "Once upon a time there was a caravan that"


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    with running_stack(folder / "home", SETTINGS) as stack:
        yield stack


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


def test_streams_survive_the_death_of_their_gateway(deployment, second):
    samplings = {
        "greedy": Sampling(temperature=0),
        "drawn": Sampling(temperature=1),
        "mirostat": Sampling(temperature=1, repeat_penalty=1.2),
    }
    with (
        forwarder_to(deployment.address, second.address) as forwarder,
        Caravan(forwarder.address, api_key=deployment.admin_key) as client,
    ):
        readers = {
            name: Reader(client, f"killed-{name}", sampling=sampling, num_choices=count)
            for count, (name, sampling) in enumerate(samplings.items(), 1)
        }
        for reader in readers.values():
            reader.await_tokens(20)
        deployment.kill("gateway")
        answers = {name: reader.end() for name, reader in readers.items()}
        for count, (name, sampling) in enumerate(samplings.items(), 1):
            undisturbed = Reader(
                client, f"undisturbed-{name}", sampling=sampling, num_choices=count
            ).end()
            assert [each.token_ids for each in answers[name].choices] == [
                each.token_ids for each in undisturbed.choices
            ]
            assert [each.text for each in answers[name].choices] == [
                each.text for each in undisturbed.choices
            ]
    deployment.start("gateway")
    deployment.wait_ready("gateway")
    for name, answer in answers.items():
        method, status, tokens, _ = await_record(deployment, f"killed-{name}")
        assert method == "caravan.inference.v1.InferenceService/StreamGenerate"
        assert (status, tokens) == (0, answer.usage.output_tokens)
