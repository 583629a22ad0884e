import threading

import pytest

from caravan_engine.runtime.page_io import JobThreads


class Gate:
    """A job that says when it runs and waits to be let go."""

    def __init__(self) -> None:
        self.running = threading.Event()
        self.released = threading.Event()

    def __call__(self) -> None:
        self.running.set()
        assert self.released.wait(10)


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.released.set()


def test_jobs_are_done_by_priority_and_then_in_order(gate):
    threads, done = JobThreads("t"), []
    threads.submit(gate)
    assert gate.running.wait(10)
    for name, priority in [("a", 0), ("b", 5), ("c", 0), ("d", 5), ("e", 9)]:
        threads.submit(lambda name=name: done.append(name), priority=priority)
    gate.released.set()
    threads.close(finish=True)

    assert done == ["e", "b", "d", "a", "c"]


def test_jobs_over_the_capacity_are_refused_until_others_are_done(gate):
    threads = JobThreads("t", capacity=10)
    assert threads.submit(gate, weight=6)
    assert gate.running.wait(10)

    assert threads.submit(lambda: None, weight=4)
    assert not threads.submit(lambda: None, weight=1)
    assert threads.submit(lambda: None)
    done = threading.Event()
    assert threads.submit(done.set, priority=-1)
    gate.released.set()
    assert done.wait(10)
    assert threads.submit(lambda: None, weight=10)
    threads.close(finish=True)


def test_a_job_heavier_than_the_capacity_is_taken_when_it_is_alone(gate):
    threads = JobThreads("t", capacity=10)
    assert threads.submit(gate, weight=100)
    assert not threads.submit(lambda: None, weight=1)
    gate.released.set()
    threads.close(finish=True)


def test_several_threads_work_at_the_same_time():
    threads, both = JobThreads("t", num_threads=2), threading.Barrier(2, timeout=10)
    met = []
    for _ in range(2):
        threads.submit(lambda: met.append(both.wait()))
    threads.close(finish=True)

    assert sorted(met) == [0, 1]


@pytest.mark.parametrize(("finish", "expected"), [(True, ["waited"]), (False, [])])
def test_the_end_waits_for_what_runs_and_as_asked_for_what_waits(gate, finish, expected):
    threads, done = JobThreads("t"), []
    threads.submit(gate)
    threads.submit(lambda: done.append("waited"))
    assert gate.running.wait(10)
    closing = threading.Thread(target=threads.close, kwargs={"finish": finish})
    closing.start()
    while threads.submit(lambda: None):  # the end has not begun
        pass
    gate.released.set()
    closing.join(10)

    assert not closing.is_alive()
    assert done == expected
    assert not any(thread.name == "t-0" for thread in threading.enumerate())


def test_a_job_that_fails_does_not_end_its_thread(caplog):
    threads, done = JobThreads("t"), []
    threads.submit(lambda: 1 / 0)
    threads.submit(lambda: done.append(1))
    threads.close(finish=True)

    assert done == [1]
    assert "job failed" in caplog.text
