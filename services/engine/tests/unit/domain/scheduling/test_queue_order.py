"""The queue against the plainest form of its rules, over random lives of requests."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from caravan_engine.domain.request import ClientKey, QueuedRequest
from caravan_engine.domain.scheduling.fairness import (
    INPUT_TOKEN_COST,
    OUTPUT_TOKEN_COST,
    ClientWeights,
)
from caravan_engine.domain.scheduling.request_queue import RequestQueue
from caravan_engine.domain.sequence import SequenceGroup

TIMEOUT_S, AGEING_S = 30.0, 2.0
WEIGHTS = {"t/a": 2.0, "t/b": 0.5}
CLIENTS = [ClientKey("t", name) for name in "abcd"]


@dataclass
class Waiting:
    group: SequenceGroup
    number: int
    since: float
    expiry: float
    is_parked: bool


@dataclass
class PlainQueue:
    """Sorts everybody at each look and never forgets a client."""

    waiting: list[Waiting] = field(default_factory=list)
    counters: dict[tuple[int, ClientKey], float] = field(default_factory=dict)
    left_last: dict[int, ClientKey] = field(default_factory=dict)
    num_entered: int = 0

    def enter(self, group, since, expiry, *, is_parked):
        self.waiting.append(Waiting(group, self.num_entered, since, expiry, is_parked))
        self.num_entered += 1

    def new_clients(self, priority):
        return {
            each.group.request.client
            for each in self.waiting
            if each.group.request.priority == priority and not each.is_parked
        }

    def lift(self, client, priority):
        others = self.new_clients(priority)
        if client in others:
            return
        if others:
            floor = min(self.counters[priority, each] for each in others)
        else:
            last = self.left_last.get(priority)
            floor = 0.0 if last is None else self.counters[priority, last]
        own = self.counters.get((priority, client), 0.0)
        self.counters[priority, client] = max(own, floor)

    def leave(self, group):
        [entry] = [each for each in self.waiting if each.group is group]
        self.waiting.remove(entry)
        request = group.request
        if not entry.is_parked and request.client not in self.new_clients(request.priority):
            self.left_last[request.priority] = request.client

    def charge(self, group, cost):
        request = group.request
        weight = WEIGHTS.get(f"{request.client.tenant}/{request.client.principal}", 1.0)
        self.counters[request.priority, request.client] += cost / weight

    def level(self, priority, now):
        oldest = min(each.since for each in self.waiting if each.group.request.priority == priority)
        return min(100, priority + int((now - oldest) / AGEING_S))

    def order(self, entry, now):
        """Less is sooner."""
        request = entry.group.request
        peers = [each for each in self.waiting if each.group.request.priority == request.priority]
        return (
            -self.level(request.priority, now),
            not any(each.is_parked for each in peers),
            min(each.since for each in peers),
            -request.priority,
            self.counters[request.priority, request.client],
            not entry.is_parked,
            entry.group.times.arrived,
            entry.number,
        )

    def first(self, now):
        return min(self.waiting, key=lambda each: self.order(each, now)).group


class QueueMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        weights = ClientWeights(WEIGHTS)
        self.queue = RequestQueue(TIMEOUT_S, ageing_s_per_level=AGEING_S, weights=weights)
        self.plain = PlainQueue()
        self.running = []
        self.now = 0.0

    @rule(
        client=st.sampled_from(CLIENTS),
        priority=st.sampled_from([1, 10, 98, 100]),
        deadline_s=st.none() | st.floats(0.1, 60),
    )
    def push(self, client, priority, deadline_s):
        deadline = None if deadline_s is None else self.now + deadline_s
        request = QueuedRequest(
            request_id="r", prompt=(1,), priority=priority, deadline=deadline, client=client
        )
        group = SequenceGroup(request, [], output=None, arrived=self.now)
        self.queue.push(group)
        self.plain.lift(client, priority)
        expiry = min(self.now + TIMEOUT_S, deadline or float("inf"))
        self.plain.enter(group, self.now, expiry, is_parked=False)

    @precondition(lambda self: self.plain.waiting)
    @rule(num_tokens=st.integers(1, 50))
    def seat(self, num_tokens):
        group = self.queue.peek(self.now)
        self.queue.remove(group)
        self.plain.leave(group)
        self.queue.charge_input(group, num_tokens)
        self.plain.charge(group, num_tokens * INPUT_TOKEN_COST)
        self.running.append(group)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), num_tokens=st.integers(1, 50))
    def generate(self, data, num_tokens):
        group = data.draw(st.sampled_from(self.running))
        self.queue.charge_output(group, num_tokens)
        self.plain.charge(group, num_tokens * OUTPUT_TOKEN_COST)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def park(self, data):
        group = data.draw(st.sampled_from(self.running))
        self.running.remove(group)
        self.queue.requeue(group, self.now)
        expiry = group.request.deadline or float("inf")
        self.plain.enter(group, self.now, expiry, is_parked=True)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data):
        group = data.draw(st.sampled_from(self.running))
        self.running.remove(group)
        self.queue.ended(group)

    @precondition(lambda self: self.plain.waiting)
    @rule(data=st.data())
    def cancel(self, data):
        group = data.draw(st.sampled_from([each.group for each in self.plain.waiting]))
        self.queue.remove(group)
        self.queue.ended(group)
        self.plain.leave(group)

    @rule(seconds=st.floats(0, 40))
    def wait(self, seconds):
        self.now += seconds
        expired = [each for each in self.plain.waiting if each.expiry <= self.now]
        expired.sort(key=lambda each: (each.expiry, each.number))
        assert list(self.queue.pop_expired(self.now)) == [each.group for each in expired]
        for each in expired:
            self.plain.leave(each.group)
            self.queue.ended(each.group)

    @invariant()
    def the_same_request_is_next(self):
        if self.plain.waiting:
            assert self.queue.peek(self.now) is self.plain.first(self.now)
        else:
            assert self.queue.peek(self.now) is None

    @invariant()
    def who_comes_next_begins_with_the_next_and_has_everybody_once(self):
        everybody = self.queue.upcoming(1000, self.now)
        assert everybody[:1] == [first for first in [self.queue.peek(self.now)] if first]
        assert len(everybody) == len(self.queue)
        assert set(everybody) == set(self.queue)
        levels = [self.queue.effective_priority(each, self.now) for each in everybody]
        assert levels == sorted(levels, reverse=True)

    @invariant()
    def the_same_requests_wait_until_the_same_moment(self):
        assert set(self.queue) == {each.group for each in self.plain.waiting}
        assert len(self.queue) == len(self.plain.waiting)
        moments = [each.expiry for each in self.plain.waiting if each.expiry < float("inf")]
        assert self.queue.next_expiry() == min(moments, default=None)

    @invariant()
    def effective_priorities_are_the_same(self):
        for each in self.plain.waiting:
            level = self.plain.level(each.group.request.priority, self.now)
            assert self.queue.effective_priority(each.group, self.now) == level


TestQueueOrder = QueueMachine.TestCase
TestQueueOrder.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
