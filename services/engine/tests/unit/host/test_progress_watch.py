import pytest

from caravan_engine.host.progress_watch import ProgressWatch, WorkerActivity


def activity(**changes):
    idle = {"num_steps": 5, "is_stepping": False, "num_running": 0}
    return WorkerActivity(**{**idle, "num_paused": 0, "num_waiting": 0, **changes})


BUSY = activity(num_running=2)


def looks_until_found(watch, say, most=100):
    """How many looks it takes to find a worker that says `say(number of the look)`."""
    for number in range(1, most):
        said = say(number)
        if said is not None:
            watch.heard(said)
        if watch.look():
            return number
    return None


@pytest.fixture
def watch():
    watch = ProgressWatch(timeout_s=10.0, interval_s=2.0)
    watch.heard(BUSY)
    assert not watch.look()
    return watch


def test_a_worker_without_a_step_while_work_waits_hangs(watch):
    assert looks_until_found(watch, lambda _: BUSY) == 5


def test_a_worker_that_says_nothing_hangs(watch):
    assert looks_until_found(watch, lambda _: None) == 5


@pytest.mark.parametrize(
    "due",
    [
        {"is_stepping": True},  # the first step after a rest, which no other number shows
        {"num_running": 2, "num_paused": 1},
        {"num_waiting": 1},
    ],
)
def test_work_is_due(watch, due):
    assert looks_until_found(watch, lambda _: activity(**due)) == 5


@pytest.mark.parametrize(
    "rest",
    [
        {},
        {"num_running": 2, "num_paused": 2},
        {"num_running": 1, "num_paused": 1, "num_waiting": 9},
    ],
)
def test_nothing_is_due_while_all_wait_for_their_clients_or_nobody_is_there(watch, rest):
    assert looks_until_found(watch, lambda _: activity(**rest)) is None


def test_slow_steps_are_steps(watch):
    steps = (activity(num_running=1, num_steps=number // 4) for number in range(200))
    assert looks_until_found(watch, lambda _: next(steps)) is None


def test_a_rest_is_no_part_of_a_hang(watch):
    assert looks_until_found(watch, lambda number: activity() if number < 50 else BUSY) == 54
