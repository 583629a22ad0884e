import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caravan_obskit.worker_numbers import (
    Measure,
    Outcome,
    WorkerCounters,
    WorkerGauges,
    WorkerNumbers,
)
from caravan_rpckit.errors import Reason
from caravan_telemetry.domain.errors import HostTakenOverError
from caravan_telemetry.domain.worker_totals import WorkerTotals
from caravan_testkit.clock import FakeClock


def new_totals(clock, *, remembered_limit: int = 10, model_limit: int = 10) -> WorkerTotals:
    return WorkerTotals(
        clock=clock,
        silence_limit_s=5.0,
        remembered_limit=remembered_limit,
        model_limit=model_limit,
    )


@pytest.fixture
def totals(fake_clock) -> WorkerTotals:
    return new_totals(fake_clock)


def tokens(totals: WorkerTotals, model: str = "bundled") -> int:
    return totals.system().models[model].counters.output_tokens


def gauges(totals: WorkerTotals, model: str = "bundled"):
    return totals.system().models[model].gauges


def test_nothing_is_known_before_the_first_report(totals):
    system = totals.system()
    assert (dict(system.models), dict(system.device_bytes)) == ({}, {})
    assert system.requests_per_second == 0


def test_workers_of_a_model_are_summed_over_hosts(totals, make_worker):
    first, second = totals.join("a"), totals.join("b")
    totals.report(first, [make_worker("w1", output_tokens=1, running=1)])
    totals.report(second, [make_worker("w1", output_tokens=2, running=2)])

    assert tokens(totals) == 3
    assert gauges(totals).running_count == 3
    assert gauges(totals).cell_count == 200


def test_models_are_kept_apart(totals, make_worker):
    session = totals.join("a")
    totals.report(
        session,
        [make_worker("w1", "one", output_tokens=1), make_worker("w2", "two", output_tokens=2)],
    )
    assert (tokens(totals, "one"), tokens(totals, "two")) == (1, 2)


def test_a_later_report_replaces_the_earlier(totals, make_worker):
    session = totals.join("a")
    totals.report(session, [make_worker(output_tokens=1, running=4)])
    totals.report(session, [make_worker(output_tokens=5, running=2)])
    assert tokens(totals) == 5
    assert gauges(totals).running_count == 2


def test_a_worker_that_vanished_stays_in_the_sum_but_not_in_the_gauges(totals, make_worker):
    session = totals.join("a")
    totals.report(session, [make_worker(output_tokens=5)])
    totals.report(session, [])
    assert tokens(totals) == 5
    assert gauges(totals) is None


def test_sums_are_monotonic_over_a_restart_of_a_worker(totals, make_worker):
    session = totals.join("a")
    totals.report(session, [make_worker("before", output_tokens=5)])
    totals.report(session, [make_worker("after", output_tokens=0)])
    assert tokens(totals) == 5
    totals.report(session, [make_worker("after", output_tokens=2)])
    assert tokens(totals) == 7


def test_a_worker_that_comes_back_counts_once(totals, make_worker):
    session = totals.join("a")
    totals.report(session, [make_worker(output_tokens=5)])
    totals.leave(session)
    assert tokens(totals) == 5
    totals.report(totals.join("a"), [make_worker(output_tokens=6)])
    assert tokens(totals) == 6


def test_the_end_of_a_stream_removes_its_gauges(totals, make_worker):
    session = totals.join("a")
    totals.report(session, [make_worker(running=1, device_bytes={"CUDA0": 7})])
    totals.leave(session)
    assert gauges(totals) is None
    assert totals.system().device_bytes == {}
    assert totals.live_host_count == 0


def test_silence_removes_gauges_and_a_new_report_brings_them_back(totals, fake_clock, make_worker):
    session = totals.join("a")
    totals.report(session, [make_worker(output_tokens=5, running=1)])
    fake_clock.advance(5.0)
    assert gauges(totals).running_count == 1
    fake_clock.advance(0.1)
    assert gauges(totals) is None
    assert tokens(totals) == 5
    totals.report(session, [make_worker(output_tokens=6, running=1)])
    assert gauges(totals).running_count == 1
    assert tokens(totals) == 6


def test_the_newest_stream_of_a_host_has_the_say(totals, make_worker):
    old = totals.join("a")
    totals.report(old, [make_worker(output_tokens=5)])
    new = totals.join("a")
    totals.report(new, [make_worker(output_tokens=6)])

    with pytest.raises(HostTakenOverError) as caught:
        totals.report(old, [])
    assert caught.value.reason is Reason.ALREADY_EXISTS
    totals.leave(old)
    assert tokens(totals) == 6
    assert gauges(totals) is not None


def test_a_report_after_leaving_is_refused(totals):
    session = totals.join("a")
    totals.leave(session)
    with pytest.raises(HostTakenOverError):
        totals.report(session, [])


def test_counters_that_fall_count_as_another_process(totals, make_worker):
    session = totals.join("a")
    totals.report(session, [make_worker(output_tokens=5)])
    totals.report(session, [make_worker(output_tokens=2)])
    assert tokens(totals) == 7


def test_a_worker_id_that_serves_another_model_counts_as_another_process(totals, make_worker):
    session = totals.join("a")
    totals.report(session, [make_worker(model="one", output_tokens=5)])
    totals.report(session, [make_worker(model="two", output_tokens=9)])
    assert (tokens(totals, "one"), tokens(totals, "two")) == (5, 9)


def test_more_vanished_workers_than_are_remembered_lose_nothing(fake_clock, make_worker):
    totals = new_totals(fake_clock, remembered_limit=3)
    session = totals.join("a")
    for n in range(50):
        totals.report(session, [make_worker(f"w{n}", output_tokens=2, finished=1)])
    counters = totals.system().models["bundled"].counters
    assert counters.output_tokens == 100
    assert counters.outcomes[Outcome.STOP] == 50
    assert counters.distributions[Measure.REQUEST_LATENCY_MS].total == pytest.approx(50.0)


def test_models_over_the_limit_are_summed_as_other(fake_clock, make_worker):
    totals = new_totals(fake_clock, model_limit=1)
    session = totals.join("a")
    workers = [make_worker(f"w{n}", f"m{n}", output_tokens=1, running=1) for n in range(3)]
    totals.report(session, workers)
    assert set(totals.system().models) == {"m0", "other"}
    assert tokens(totals, "other") == 2
    assert gauges(totals, "other").running_count == 2


def test_a_device_counts_once_on_a_host_and_adds_up_over_hosts(totals, make_worker):
    shared = [
        make_worker("w1", device_bytes={"CUDA0": 5}),
        make_worker("w2", device_bytes={"CUDA0": 6, "CUDA1": 1}),
    ]
    totals.report(totals.join("a"), shared)
    totals.report(totals.join("b"), [make_worker("w1", device_bytes={"CUDA0": 10})])
    assert totals.system().device_bytes == {"CUDA0": 16, "CUDA1": 1}


def test_finished_requests_are_counted_per_second(totals, fake_clock, make_worker):
    session = totals.join("a")
    totals.report(session, [make_worker(finished=1_000)])  # counted before we listened
    assert totals.system().requests_per_second == 0
    for n in range(1, 11):
        fake_clock.advance(1.0)
        totals.report(session, [make_worker(finished=1_000 + 3 * n)])
    assert totals.system().requests_per_second == pytest.approx(3.0)


def test_a_worker_that_comes_back_makes_no_spike_in_the_rate(totals, make_worker):
    session = totals.join("a")
    totals.report(session, [make_worker(finished=1_000)])
    totals.leave(session)
    totals.report(totals.join("a"), [make_worker(finished=1_010)])
    assert totals.system().requests_per_second == pytest.approx(1.0)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["report", "restart", "vanish", "reconnect", "wait"]),
        st.integers(min_value=0, max_value=2),  # the worker
        st.integers(min_value=0, max_value=9),  # tokens it makes
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_sums_equal_what_all_processes_ever_counted(steps):
    clock = FakeClock()
    totals = new_totals(clock, remembered_limit=3)
    session = totals.join("a")
    made = 0
    incarnations = [0, 0, 0]
    counts: dict[int, int] = {}
    for action, number, amount in steps:
        made += _apply(action, number, amount, incarnations, counts)
        if action == "reconnect":
            totals.leave(session)
            session = totals.join("a")
        clock.advance(amount)
        totals.report(session, [_worker(n, incarnations[n], c) for n, c in counts.items()])
        assert totals.system().models.get("bundled") is None or tokens(totals) == made


def _apply(action, number, amount, incarnations, counts) -> int:
    if action in ("restart", "vanish"):
        counts.pop(number, None)
        incarnations[number] += 1
    if action in ("report", "restart"):
        counts[number] = counts.get(number, 0) + amount
        return amount
    return 0


def _worker(number: int, incarnation: int, output_tokens: int) -> WorkerNumbers:
    return WorkerNumbers(
        worker_id=f"w{number}.{incarnation}",
        model="bundled",
        replica_index=number,
        counters=WorkerCounters(output_tokens=output_tokens),
        gauges=WorkerGauges(),
        device_bytes={},
    )
