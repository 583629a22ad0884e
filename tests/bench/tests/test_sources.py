import json
import time

import pytest

from servers import LlamaServer, Shape
from sources import CallFailedError, llama_server_tokens


class Answer:
    """An HTTP answer as llama-server gives it."""

    def __init__(self, *lines, status=200):
        self.status = status
        self._lines = [line.encode() + b"\n" for line in lines]

    def __iter__(self):
        return iter(self._lines)

    def read(self):
        return b"".join(self._lines)


def event(**fields):
    return "data: " + json.dumps(fields)


def later():
    return time.monotonic() + 60


def test_tokens_are_those_of_the_events_before_the_last():
    lines = [event(tokens=[7], stop=False), "", event(tokens=[8, 9]), event(tokens=[], stop=True)]

    assert list(llama_server_tokens(Answer(*lines), later())) == [[7], [8, 9]]


@pytest.mark.parametrize(
    "line", ['data: {"error": {"message": "full"}}', 'error: {"message": "full"}']
)
def test_an_error_in_the_stream_fails_the_call_after_its_tokens(line):
    tokens = llama_server_tokens(Answer(event(tokens=[7]), line), later())

    assert next(tokens) == [7]
    with pytest.raises(CallFailedError, match="full"):
        next(tokens)


def test_a_refusal_fails_the_call_with_its_text():
    answer = Answer('{"error": {"code": 400, "message": "too long"}}', status=400)

    with pytest.raises(CallFailedError, match="too long"):
        list(llama_server_tokens(answer, later()))


def test_a_stream_that_goes_on_after_the_deadline_fails():
    with pytest.raises(CallFailedError, match="time is over"):
        list(llama_server_tokens(Answer(event(tokens=[7]), event(tokens=[8])), time.monotonic()))


def test_llama_server_gets_what_caravan_gets_and_extra_flags_last():
    shape = Shape(seats=4, cells=2048, batch=256, threads=2)

    flags = LlamaServer(name="s", shape=shape, is_unified=True, extra_flags=("-b", "2048")).flags

    assert " ".join(flags[:12]) == "-np 4 -c 2048 -b 256 -ub 256 -t 2 -tb 2"
    assert "--kv-unified" in flags
    assert "--cache-ram" not in flags
    assert flags[-2:] == ["-b", "2048"]
