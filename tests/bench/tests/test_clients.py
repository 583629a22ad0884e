import threading

import pytest

from clients import WorkloadFailedError, run
from sources import CallFailedError
from workloads import Clients, Turn, Workload


class EchoSource:
    """Answers with as many tokens as wanted, less `missing`; fails from the n-th call on."""

    name = "echo"

    def __init__(self, missing=0, fails_from=None):
        self.calls = []
        self._missing = missing
        self._fails_from = fails_from
        self._lock = threading.Lock()

    def stream(self, call):
        with self._lock:
            self.calls.append(call)
            number = len(self.calls)
        if self._fails_from is not None and number >= self._fails_from:
            raise CallFailedError("no room")
        for index in range(call.output_tokens - self._missing):
            yield [1000 + index]


def workload(*turns, count=1, may_fail=False, limit_s=60.0):
    clients = (Clients(count=count, turns=turns),)
    return Workload(name="w", clients=clients, limit_s=limit_s, may_fail=may_fail)


def test_each_turn_continues_the_whole_conversation_with_the_answers_in_it():
    source = EchoSource()

    result = run(source, workload(Turn(5, 2), Turn(3, 2)), seed=1)

    first, second = source.calls
    assert list(second.prompt[:7]) == [*first.prompt, 1000, 1001]
    assert len(second.prompt) == 10
    assert first.session_id == second.session_id
    assert (result.num_completed, result.tokens_by_call) == (2, [2, 2])


def test_a_failed_call_ends_its_client_and_is_counted_where_failures_are_a_result():
    source = EchoSource(fails_from=2)

    result = run(source, workload(Turn(5, 2), Turn(3, 2), Turn(3, 2), may_fail=True), seed=1)

    assert len(source.calls) == 2
    assert (result.num_completed, result.num_calls) == (1, 3)
    assert result.failures == {"no room": 1}


def test_a_failed_call_is_an_error_elsewhere():
    with pytest.raises(WorkloadFailedError, match="no room"):
        run(EchoSource(fails_from=1), workload(Turn(5, 2), count=2), seed=1)


def test_a_cut_answer_is_an_error_elsewhere():
    with pytest.raises(WorkloadFailedError, match="0 of 1 calls complete, 1 to 1 tokens a call"):
        run(EchoSource(missing=1), workload(Turn(5, 2)), seed=1)


def test_a_run_over_its_limit_fails_even_where_calls_may_fail():
    with pytest.raises(WorkloadFailedError, match="over the limit"):
        run(EchoSource(), workload(Turn(5, 2), may_fail=True, limit_s=0.0), seed=1)


def test_calls_are_told_how_much_time_is_left():
    source = EchoSource()

    run(source, workload(Turn(5, 2), limit_s=60.0), seed=1)

    assert 0 < source.calls[0].timeout_s <= 60.0
