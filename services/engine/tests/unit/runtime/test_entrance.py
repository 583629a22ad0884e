"""What becomes of whoever comes in, and of whoever gives way, whenever the decode thread hears."""

import threading

import pytest

from caravan_engine.domain.errors import (
    DeadlineUnreachableError,
    DrainingError,
    QueueFullError,
    QueueTimeoutError,
    RequestCancelledError,
)
from caravan_engine.domain.events import FinishReason
from caravan_engine.domain.scheduling.deadline_guard import DeadlineGuard
from caravan_engine.domain.scheduling.rates import StepRates
from caravan_engine.runtime.entrance import Entrance


class Pessimist(DeadlineGuard):
    """Takes every deadline for out of reach."""

    def check(self, group, now):
        if group.request.deadline is not None:
            raise DeadlineUnreachableError(estimate_s=9.0, remaining_s=1.0)


class Hall:
    """An entrance whose scheduler hears of nothing before `hear`."""

    def __init__(self, rig):
        self.rig = rig
        self.posted = []
        guard = Pessimist(StepRates(), num_seats=rig.limits.num_seats)
        self.entrance = Entrance(
            rig.gate, guard, rig.scheduler, clock=rig.clock, post=self.posted.append
        )

    def enter(self, priority=10, **fields):
        group = self.rig.make_group(priority=priority, **fields)
        self.entrance.enter(group, self.rig.scheduler.submit)
        return group

    def hear(self):
        while self.posted:
            self.posted.pop(0)()


@pytest.fixture
def hall(make_rig):
    """One seat, which is taken, and one place."""
    hall = Hall(make_rig(num_seats=1, queue_capacity=1, queue_timeout_s=5))
    hall.running = hall.enter(priority=90)
    hall.hear()
    hall.rig.step()
    return hall


def ends(group):
    """How a request ended, each time."""
    output = group.output
    return [*map(type, output.errors), *output.finished]


def test_whoever_gives_way_ends_like_one_who_was_refused(hall):
    displaced = hall.enter(priority=1)
    hall.hear()
    winner = hall.enter(priority=2)
    with pytest.raises(QueueFullError) as refused:
        hall.enter(priority=1)
    hall.hear()
    [error] = displaced.output.errors
    assert isinstance(error, QueueFullError)
    assert (str(error), error.metadata, error.retry_after_s) == (
        str(refused.value),
        refused.value.metadata,
        refused.value.retry_after_s,
    )
    assert not displaced.output.started
    hall.rig.run()
    assert ends(winner) == ends(hall.running) == [FinishReason.LENGTH]
    assert hall.rig.gate.num_waiting == 0


def test_whoever_gives_way_before_the_decode_thread_knows_it_ends_once(hall):
    displaced = [hall.enter(priority=1)]
    winner = hall.enter(priority=2)
    hall.hear()
    assert ends(displaced[0]) == [QueueFullError]
    hall.rig.run()
    assert ends(displaced[0]) == [QueueFullError]
    assert ends(winner) == [FinishReason.LENGTH]


def test_whoever_was_seated_before_the_decode_thread_heard_runs_on(hall):
    lucky = hall.enter(priority=1)
    hall.hear()
    winner = hall.enter(priority=2)
    hall.rig.scheduler.cancel(hall.running, hall.rig.clock())
    hall.rig.step()
    assert hall.rig.scheduler.running[0].group is lucky
    with pytest.raises(QueueFullError):
        hall.enter(priority=2)  # the seated one had no place any more
    hall.hear()
    hall.rig.run()
    assert ends(lucky) == ends(winner) == [FinishReason.LENGTH]
    assert hall.rig.gate.num_waiting == 0


def test_whoever_was_parked_since_then_goes_on_too(hall):
    lucky = hall.enter(priority=1)
    hall.hear()
    urgent = hall.enter(priority=91)
    hall.rig.scheduler.cancel(hall.running, hall.rig.clock())
    hall.rig.step()
    begin, end = hall.posted
    begin()
    hall.rig.step()
    assert lucky.is_parked
    end()
    hall.posted.clear()
    hall.rig.run()
    assert ends(lucky) == ends(urgent) == [FinishReason.LENGTH]


def test_whoever_left_before_the_decode_thread_heard_is_only_cancelled(hall):
    displaced = hall.enter(priority=1)
    hall.hear()
    hall.enter(priority=2)
    hall.rig.scheduler.cancel(displaced, hall.rig.clock())
    hall.hear()
    assert ends(displaced) == [RequestCancelledError]
    assert hall.rig.gate.num_waiting == 1


def test_whoever_waited_too_long_before_the_decode_thread_heard_is_told_so(hall):
    displaced = hall.enter(priority=1)
    hall.hear()
    hall.rig.clock.advance(6)
    hall.enter(priority=2)
    hall.rig.step()
    hall.hear()
    assert ends(displaced) == [QueueTimeoutError]
    assert hall.rig.gate.num_waiting == 1


def test_who_would_be_late_anyway_displaces_nobody(hall):
    waiting = hall.enter(priority=1)
    with pytest.raises(DeadlineUnreachableError):
        hall.enter(priority=2, deadline=100.0)
    hall.hear()
    hall.rig.run()
    assert ends(waiting) == [FinishReason.LENGTH]


def test_a_full_queue_is_told_before_a_deadline_out_of_reach(hall):
    hall.enter(priority=10)
    with pytest.raises(QueueFullError):
        hall.enter(priority=10, deadline=100.0)


def test_nobody_begins_after_what_is_posted_after_closing(make_rig):
    rig = make_rig()
    order = []

    def close():
        entrance.close()
        order.append("closed")

    def post(_command):
        closing.start()
        closing.join(timeout=0.05)  # which would be enough if it could
        order.append("posted")

    closing = threading.Thread(target=close, daemon=True)
    guard = DeadlineGuard(StepRates(), num_seats=1)
    entrance = Entrance(rig.gate, guard, rig.scheduler, clock=rig.clock, post=post)
    entrance.enter(rig.make_group(), rig.scheduler.submit)
    closing.join(timeout=20)
    assert order == ["posted", "closed"]
    with pytest.raises(DrainingError):
        entrance.enter(rig.make_group(), rig.scheduler.submit)


def test_whoever_gives_way_to_another_thread_is_heard_of_before_it_is_ended(make_rig):
    rig = make_rig(queue_capacity=1)
    posted, heard = [], []

    def enter(group):
        entrance.enter(group, heard.append)

    def post(command):
        if not other.ident:
            other.start()
            other.join(timeout=0.05)  # which would be enough if it could
        posted.append(command)

    displaced, urgent = rig.make_group(priority=1), rig.make_group(priority=2)
    other = threading.Thread(target=enter, args=(urgent,), daemon=True)
    guard = DeadlineGuard(StepRates(), num_seats=1)
    entrance = Entrance(rig.gate, guard, rig.scheduler, clock=rig.clock, post=post)
    enter(displaced)
    other.join(timeout=20)
    assert rig.gate.is_displaced(displaced)
    for command in posted[:2]:
        command()
    assert heard == [displaced, urgent]
