import pytest

from caravan_telemetry.domain.event_rate import EventRate


def test_events_count_over_the_window():
    rate = EventRate(window_s=10)
    rate.add(20, 100.0)
    rate.add(10, 104.5)
    assert rate.per_second(105.0) == pytest.approx(3.0)


def test_events_leave_the_window():
    rate = EventRate(window_s=10)
    rate.add(20, 100.0)
    rate.add(10, 104.0)
    assert rate.per_second(110.0) == pytest.approx(1.0)
    assert rate.per_second(200.0) == 0


def test_many_events_in_one_second_add_up():
    rate = EventRate(window_s=10)
    for _ in range(1_000):
        rate.add(1, 100.25)
    assert rate.per_second(100.5) == pytest.approx(100.0)


def test_nothing_is_nothing():
    rate = EventRate()
    rate.add(0, 100.0)
    assert rate.per_second(100.0) == 0
