import itertools

import pytest

from caravan_engine.domain.request import ClientKey, QueuedRequest
from caravan_engine.domain.scheduling.fairness import ClientWeights
from caravan_engine.domain.scheduling.request_queue import RequestQueue
from caravan_engine.domain.scheduling.waiting_line import WaitingLine
from caravan_engine.domain.sequence import SequenceGroup

# ── order ──


def group(client="alice", *, arrived=0.0, priority=10, deadline=None):
    request = QueuedRequest(
        request_id="r",
        prompt=(1,),
        priority=priority,
        deadline=deadline,
        client=ClientKey("acme", client),
    )
    return SequenceGroup(request, [], output=None, arrived=arrived)


@pytest.fixture
def queue():
    return RequestQueue(30.0, ageing_s_per_level=2.0)


def push(queue, *groups):
    for each in groups:
        queue.push(each)
    return groups


def serve(queue, now=0.0, *, input_tokens=0):
    """Takes out whose turn it is, as if it got seats."""
    taken = queue.peek(now)
    queue.remove(taken)
    queue.charge_input(taken, input_tokens)
    return taken


def drained(queue, now=0.0, *, input_tokens=0):
    return [serve(queue, now, input_tokens=input_tokens) for _ in range(len(queue))]


def park(queue, parked, now):
    """Seats a request that waits alone, and sends it back."""
    queue.push(parked)
    assert serve(queue, now) is parked
    queue.requeue(parked, now)


def test_higher_priority_comes_first_and_equals_in_order(queue):
    groups = push(queue, *(group(priority=each) for each in (10, 50, 10, 100, 1)))
    assert drained(queue) == [groups[3], groups[1], groups[0], groups[2], groups[4]]


def test_within_a_priority_clients_take_turns_by_what_they_were_served(queue):
    flood = push(queue, *(group("alice") for _ in range(3)))
    other = push(queue, *(group("bob", arrived=1.0) for _ in range(3)))
    assert drained(queue, now=1.0, input_tokens=10) == [
        each for pair in zip(flood, other, strict=True) for each in pair
    ]


def test_generated_tokens_count_when_they_are_generated(queue):
    first, second, other = push(queue, group("alice"), group("alice"), group("bob"))
    assert serve(queue) is first
    queue.charge_output(first, 1)
    assert queue.peek(0.0) is other
    queue.charge_input(other, 5)
    assert queue.peek(0.0) is second


def test_priorities_are_accounted_separately(queue):
    paid = group("alice", priority=50)
    push(queue, paid)
    assert serve(queue, input_tokens=1000) is paid
    alice, _bob = push(queue, group("alice"), group("bob"))
    assert queue.peek(0.0) is alice


def test_waiting_raises_a_priority_by_one_for_each_span(queue):
    [background] = push(queue, group(priority=1, arrived=0.0))
    levels = [queue.effective_priority(background, now) for now in (0, 1.9, 2.0, 18.0, 1000.0)]
    assert levels == [1, 1, 2, 10, 100]


@pytest.mark.parametrize(("arrived", "comes_first"), [(17.9, False), (20.1, True)])
def test_who_waits_long_enough_passes_the_next_priority(queue, arrived, comes_first):
    [background] = push(queue, group(priority=1, arrived=0.0))
    push(queue, group(priority=10, arrived=arrived))
    assert (queue.peek(arrived) is background) == comes_first


def test_without_ageing_nobody_is_raised():
    queue = RequestQueue(30.0, ageing_s_per_level=0)
    background, default = push(queue, group(priority=1), group(priority=10, arrived=1e6))
    assert queue.effective_priority(background, 1e6) == 1
    assert queue.peek(1e6) is default


def test_at_the_highest_priority_ageing_only_makes_equal(queue):
    [background] = push(queue, group(priority=1, arrived=0.0))
    [admin] = push(queue, group(priority=100, arrived=1000.0))
    assert queue.effective_priority(background, 1000.0) == 100
    assert drained(queue, now=1000.0) == [background, admin]


def test_the_age_of_a_flood_gives_it_no_advantage_over_a_newcomer_of_its_priority(queue):
    push(queue, *(group("greedy", arrived=0.0) for _ in range(100)))
    served = [serve(queue, now=0.0, input_tokens=10) for _ in range(3)]
    [newcomer] = push(queue, group("bob", arrived=29.0))
    assert all(each.request.client.principal == "greedy" for each in served)
    assert queue.peek(29.0).request.client.principal == "greedy"  # even, and it came first
    serve(queue, 29.0, input_tokens=10)
    assert queue.peek(29.0) is newcomer
    assert queue.effective_priority(newcomer, 29.0) == 10 + 14


def test_other_requests_have_their_own_priority(queue):
    [waiting] = push(queue, group(arrived=0.0))
    assert queue.effective_priority(group(priority=7), 20.0) == 7
    queue.remove(waiting)
    assert queue.effective_priority(waiting, 20.0) == 10


def test_weights_give_shares():
    weights = ClientWeights({"acme/alice": 3.0})
    queue = RequestQueue(30.0, weights=weights)
    push(queue, *(group(name) for name in ("alice", "bob") for _ in range(100)))
    served = [serve(queue, input_tokens=10).request.client.principal for _ in range(80)]
    assert abs(served.count("alice") - 60) <= 1


# ── parked requests ──


def test_parked_requests_come_before_new_ones_of_their_effective_priority(queue):
    parked = group("greedy", arrived=5.0)
    park(queue, parked, 5.0)
    queue.charge_output(parked, 1000)
    above, new = push(queue, group("bob", priority=50, arrived=5.0), group("bob", arrived=5.0))
    assert drained(queue, 5.0) == [above, parked, new]


def test_parked_requests_of_a_client_keep_their_order_of_arrival(queue):
    groups = [group(arrived=float(moment)) for moment in range(3)]
    push(queue, *groups)
    drained(queue)
    for each in (groups[2], groups[0], groups[1]):
        queue.requeue(each, 10.0)
    assert drained(queue, 10.0) == groups


def test_among_parked_requests_the_client_served_least_comes_first(queue):
    first, second = push(queue, group("alice"), group("bob"))
    drained(queue)
    queue.charge_output(first, 10)
    queue.requeue(first, 1.0)
    queue.requeue(second, 1.0)
    assert queue.peek(1.0) is second
    queue.charge_output(second, 20)
    assert queue.peek(1.0) is first


def test_a_parked_request_that_comes_back_late_still_stands_at_its_arrival(queue):
    first, second, third = groups = [
        group("alice", arrived=0.0),
        group("bob", arrived=1.0),
        group("alice", arrived=2.0),
    ]
    push(queue, *groups)
    drained(queue, 2.0)
    queue.requeue(third, 3.0)
    queue.requeue(second, 3.0)
    assert queue.peek(3.0) is second
    queue.requeue(first, 3.0)
    assert drained(queue, 3.0) == [first, second, third]


def test_a_parked_request_ages_from_the_moment_that_it_waits_again(queue):
    parked = group(priority=1, arrived=0.0)
    queue.push(parked)
    serve(queue)
    queue.requeue(parked, 100.0)
    assert queue.effective_priority(parked, 104.0) == 3


def test_a_parked_request_has_no_queue_timeout_but_still_its_deadline(queue):
    patient, hurried = group(arrived=0.0), group(arrived=0.0, deadline=50.0)
    push(queue, patient, hurried)
    assert queue.next_expiry() == 30.0
    drained(queue)
    assert queue.next_expiry() is None
    queue.requeue(patient, 20.0)
    queue.requeue(hurried, 20.0)
    assert list(queue.pop_expired(49.9)) == []
    assert queue.next_expiry() == 50.0
    assert list(queue.pop_expired(50.0)) == [hurried]
    assert list(queue) == [patient]


# ── time, and many ──


def test_those_who_waited_too_long_are_taken_out_once(queue):
    groups = push(queue, *(group(arrived=float(moment)) for moment in range(4)))
    queue.remove(groups[1])
    assert list(queue.pop_expired(32.0)) == [groups[0], groups[2]]
    assert list(queue) == [groups[3]]
    assert groups[3] in queue
    assert groups[0] not in queue


def test_an_empty_queue_has_nobody_and_no_moment(queue):
    assert queue.peek(0.0) is None
    assert queue.next_expiry() is None
    [only] = push(queue, group())
    queue.remove(only)
    queue.ended(only)
    assert queue.peek(0.0) is None
    assert len(queue) == 0


def test_a_thousand_requests_of_two_hundred_clients_are_served_evenly(queue):
    names = [f"client {number}" for number in range(200)]
    push(queue, *(group(name) for name in names for _ in range(5)))
    served = [each.request.client.principal for each in drained(queue, input_tokens=7)]
    assert served == names * 5


def test_to_look_costs_only_who_was_charged_since_however_many_wait():
    served = dict.fromkeys((f"client {number}" for number in range(200)), 0.0)
    looked_up = []

    def counter(client):
        looked_up.append(client)
        return served[client.principal]

    line = WaitingLine(counter)
    numbers = itertools.count()
    for name in served:
        for _ in range(5):
            line.push(group(name), (0.0, next(numbers)))
    for name in list(served)[:16]:  # who has a seat gets a token
        served[name] += 2.0
    looked_up.clear()
    assert line.first().request.client.principal == "client 16"
    assert len(looked_up) <= 16 + 1
    looked_up.clear()
    line.first()
    assert len(looked_up) == 1


def test_requests_that_come_and_go_leave_nothing_behind(queue):
    [first] = push(queue, group("blocked", priority=100))
    for number in range(5000):
        each = group(f"client {number % 50}", arrived=number * 1e-3)
        queue.push(each)
        queue.remove(each)
        queue.ended(each)
    assert drained(queue) == [first]
    assert queue.next_expiry() is None


def test_who_comes_next_is_told_by_priority_and_by_turns_of_clients(queue):
    flood = [group("flood") for _ in range(3)]
    alice, premium = group("alice"), group("premium", priority=50)
    push(queue, *flood, alice, premium)
    assert queue.upcoming(4, 0.0) == [premium, flood[0], alice, flood[1]]
    assert queue.upcoming(9, 0.0) == [premium, flood[0], alice, *flood[1:]]
    assert queue.upcoming(0, 0.0) == []
