import pytest

from caravan_engine.domain.errors import DrainingError, QueueFullError
from caravan_engine.domain.request_queue import QueueGate


def test_the_gate_refuses_at_once_when_all_places_are_taken():
    gate = QueueGate(2)
    gate.enter()
    gate.enter()
    with pytest.raises(QueueFullError) as caught:
        gate.enter()
    assert caught.value.retry_after_s == 1.0  # nothing measured yet
    gate.leave(now=0.0)
    gate.enter()
    assert gate.num_waiting == 2


def test_the_delay_follows_the_measured_departures():
    gate = QueueGate(100)
    for _ in range(100):
        gate.enter()
    for moment in range(20):
        gate.leave(now=moment * 0.5)
    assert gate.retry_after_s() == pytest.approx(0.5 * 80 * 0.1)


def test_a_closed_gate_lets_nobody_in():
    gate = QueueGate(2)
    gate.close()
    with pytest.raises(DrainingError):
        gate.enter()
