"""Who gets a place in the queue, and who gives way when it is full."""

import pytest

from caravan_engine.domain.errors import DrainingError, QueueFullError
from caravan_engine.domain.request import (
    ClientKey,
    Continuation,
    Emitted,
    GenerationRequest,
    QueuedRequest,
)
from caravan_engine.domain.sampling.options import SamplingOptions
from caravan_engine.domain.scheduling.fairness import ClientWeights
from caravan_engine.domain.scheduling.queue_gate import QueueGate
from caravan_engine.domain.sequence import SequenceGroup


def group(client="alice", priority=10):
    request = QueuedRequest(
        request_id="r", prompt=(1,), priority=priority, client=ClientKey("acme", client)
    )
    return SequenceGroup(request, [], output=None, arrived=0.0)


def continued(client="alice", priority=10):
    """A request that another worker began."""
    request = GenerationRequest(
        request_id="r",
        prompt=(1,),
        priority=priority,
        client=ClientKey("acme", client),
        sampling=SamplingOptions(),
        seed=0,
        continuation=Continuation((Emitted((1,)),)),
    )
    return SequenceGroup(request, [], output=None, arrived=0.0)


def fill(gate, *groups):
    """Lets requests in that displace nobody."""
    for each in groups:
        assert gate.enter(each) is None
    return groups


def refuses(gate, newcomer):
    """Whether a request is refused, which changes nothing."""
    before = gate.num_waiting_by_priority
    with pytest.raises(QueueFullError):
        gate.check(newcomer.request)
    with pytest.raises(QueueFullError):
        gate.enter(newcomer)
    return gate.num_waiting_by_priority == before


def test_whoever_has_all_places_is_refused_at_once():
    gate = QueueGate(2)
    first, _ = fill(gate, group(), group())
    with pytest.raises(QueueFullError) as caught:
        gate.enter(group())
    assert caught.value.retry_after_s == 1.0  # nothing measured yet
    assert caught.value.metadata == {"queue_capacity": "2"}
    gate.leave(first, now=0.0)
    fill(gate, group())
    assert gate.num_waiting == 2


def test_the_delay_follows_the_measured_departures():
    gate = QueueGate(100)
    groups = fill(gate, *(group() for _ in range(100)))
    for moment in range(20):
        gate.leave(groups[moment], now=moment * 0.5)
    assert gate.retry_after_s() == pytest.approx(0.5 * 80 * 0.1)


def test_a_closed_gate_lets_nobody_in_and_displaces_nobody():
    gate = QueueGate(1)
    [waiting] = fill(gate, group(priority=1))
    gate.close()
    with pytest.raises(DrainingError):
        gate.check(group(priority=50).request)
    with pytest.raises(DrainingError):
        gate.enter(group(priority=50))
    assert not gate.is_displaced(waiting)


def test_who_waits_is_told_by_priority():
    gate = QueueGate(10)
    groups = fill(gate, *(group(priority=each) for each in (50, 10, 10, 0)))
    gate.leave(groups[1], now=0.0)
    gate.leave(groups[0], now=0.0)
    assert gate.num_waiting_by_priority == {0: 1, 10: 1}
    assert gate.num_waiting == 2


# ── who gives way ──


def test_to_look_displaces_nobody():
    gate = QueueGate(1)
    [waiting] = fill(gate, group(priority=1))
    gate.check(group(priority=2).request)
    assert not gate.is_displaced(waiting)
    assert gate.num_waiting_by_priority == {1: 1}


def test_the_latest_of_the_lowest_priority_gives_way_to_a_higher_one():
    gate = QueueGate(4)
    _, early, late, _ = fill(gate, *(group(priority=each) for each in (10, 1, 1, 5)))
    assert gate.enter(group(priority=50)) is late
    assert gate.enter(group(priority=10)) is early
    assert gate.num_waiting_by_priority == {5: 1, 10: 2, 50: 1}


def test_at_the_lowest_priority_whoever_has_most_gives_way_and_of_equals_the_latest():
    gate = QueueGate(5)
    names = ("alice", "alice", "bob", "bob", "carol")
    groups = fill(gate, *(group(name, priority=1) for name in names))
    displaced = [gate.enter(group("dave", priority=2)) for _ in range(5)]
    assert displaced == [groups[each] for each in (3, 1, 4, 2, 0)]


def test_nobody_gives_way_to_a_lower_priority_however_much_it_has():
    gate = QueueGate(3)
    fill(gate, *(group("greedy", priority=10) for _ in range(3)))
    assert refuses(gate, group("bob", priority=9))


def test_whoever_fills_the_queue_gives_way_to_others_of_its_priority_until_all_have_as_much():
    gate = QueueGate(6)
    flood = fill(gate, *(group("greedy") for _ in range(6)))
    assert gate.enter(group("bob")) is flood[5]
    assert gate.enter(group("bob")) is flood[4]
    assert gate.enter(group("bob")) is flood[3]
    assert refuses(gate, group("bob"))
    assert refuses(gate, group("greedy"))
    assert gate.enter(group("carol")).request.client.principal == "bob"  # its latest is the latest
    assert gate.enter(group("carol")) is flood[2]


def test_whoever_was_displaced_can_not_take_the_place_back():
    gate = QueueGate(3)
    fill(gate, *(group("greedy") for _ in range(3)))
    gate.enter(group("bob"))
    assert refuses(gate, group("greedy"))
    assert refuses(gate, group("bob"))


def test_one_more_than_the_newcomer_would_have_is_no_reason_to_give_way():
    gate = QueueGate(3)
    fill(gate, group("alice"), group("alice"), group("bob"))
    assert refuses(gate, group("bob"))


def test_weights_give_shares_of_the_places():
    gate = QueueGate(6, ClientWeights({"acme/alice": 2.0}))
    flood = fill(gate, *(group("alice") for _ in range(6)))
    assert gate.enter(group("bob")) is flood[5]
    assert gate.enter(group("bob")) is flood[4]
    assert refuses(gate, group("bob"))  # 4 of 6 for twice the weight
    assert refuses(gate, group("alice"))


def test_a_greater_weight_takes_more_than_half_of_the_places():
    gate = QueueGate(6, ClientWeights({"acme/alice": 2.0}))
    flood = fill(gate, *(group("bob") for _ in range(6)))
    assert [gate.enter(group("alice")) for _ in range(4)] == [*flood[:1:-1]]
    assert refuses(gate, group("alice"))
    assert refuses(gate, group("bob"))


def test_places_of_other_priorities_do_not_count_against_a_client():
    gate = QueueGate(4)
    fill(gate, *(group("alice", priority=50) for _ in range(2)), group("alice"), group("bob"))
    assert refuses(gate, group("bob"))
    assert refuses(gate, group("alice"))


def test_what_another_worker_began_never_gives_way():
    gate = QueueGate(3)
    fill(gate, *(continued("greedy", priority=1) for _ in range(3)))
    assert refuses(gate, group("bob", priority=1))
    assert refuses(gate, group("bob", priority=50))


def test_the_new_requests_beside_a_continuation_give_way():
    gate = QueueGate(4)
    _, new, _, _ = fill(
        gate, continued("greedy"), group("greedy"), continued("greedy"), group("carol")
    )
    assert gate.enter(group("bob")) is new  # all three are what greedy has
    assert refuses(gate, group("dave"))


def test_a_continuation_takes_the_place_of_others_like_anybody():
    gate = QueueGate(2)
    _, late = fill(gate, group("greedy"), group("greedy"))
    fresh = continued("bob", priority=11)
    assert gate.enter(fresh) is late
    assert refuses(gate, continued("bob", priority=10))


def test_who_came_and_left_does_not_give_way():
    gate = QueueGate(2)
    early, late = fill(gate, group(priority=1), group(priority=1))
    gate.leave(late, now=0.0)
    fill(gate, group(priority=50))
    assert gate.enter(group(priority=50)) is early
    assert refuses(gate, group(priority=50))


# ── until the decode thread hears of it ──


def test_the_displaced_leave_no_place_when_they_end():
    gate = QueueGate(1)
    [displaced] = fill(gate, group(priority=1))
    assert gate.enter(group(priority=2)) is displaced
    assert gate.is_displaced(displaced)
    assert gate.num_waiting == 1
    gate.leave(displaced, now=0.0)  # seated, cancelled, timed out or ended
    assert not gate.is_displaced(displaced)
    assert gate.num_waiting_by_priority == {2: 1}
    assert refuses(gate, group(priority=2))


def test_the_displaced_are_no_departures():
    gate = QueueGate(10)
    groups = fill(gate, *(group(priority=1) for _ in range(10)))
    gate.leave(groups[0], now=0.0)
    gate.leave(groups[1], now=4.0)
    fill(gate, group(), group())
    for _ in range(5):
        gate.leave(gate.enter(group()), now=4.1)
    assert gate.retry_after_s() == pytest.approx(4.0)


def test_nobody_is_displaced_twice():
    gate = QueueGate(2)
    fill(gate, group(priority=1), group(priority=1))
    displaced = [gate.enter(group(priority=each)) for each in (2, 3)]
    assert len(set(displaced)) == 2
    assert refuses(gate, group(priority=50))  # as many are displaced as may wait
    gate.leave(displaced[0], now=0.0)
    assert gate.enter(group(priority=50)).request.priority == 2
