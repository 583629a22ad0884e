"""Fairness and ageing on schedules that the scheduler made, step by step."""

import itertools

import pytest

from caravan_engine.backends.fake import FakeBackend
from caravan_engine.domain.events import FinishReason
from caravan_engine.domain.request import ClientKey
from caravan_engine.domain.scheduling.fairness import INPUT_TOKEN_COST, OUTPUT_TOKEN_COST

GREEDY, MODEST = ClientKey("acme", "greedy"), ClientKey("acme", "modest")
NUM_CELLS, LONGEST_INPUT = 120, 12
# With as many output tokens running at once as there are cells at most, the bound of the paper
# (Sheng et al. 2024, section 4.1) for two clients that both wait all the time. It holds where
# nobody is parked: a request that gave its cells up may have been served as much again.
BOUND = 2 * max(INPUT_TOKEN_COST * LONGEST_INPUT, OUTPUT_TOKEN_COST * NUM_CELLS)


class Schedule:
    """Keeps clients' requests waiting, and records what each client was served after each step."""

    def __init__(self, rig):
        self.rig = rig
        self.groups = {}
        self.served = {}
        self._numbers = itertools.count()

    def top_up(self, client, num_waiting, **fields):
        """Submits until so many requests of a client wait."""
        groups = self.groups.setdefault(client, [])
        waiting = [each for each in groups if each.times.started is None]
        for _ in range(num_waiting - len(waiting)):
            number = next(self._numbers)
            length = 1 + number * 5 % LONGEST_INPUT
            fields = {"max_output": 3 + number * 7 % 23, "client": client, **fields}
            groups.append(self.rig.submit_group(bytes([number % 250]) * length, **fields))

    def step(self):
        self.rig.step()
        for client in self.groups:
            self.served.setdefault(client, []).append(self.tokens_of(client))

    def tokens_of(self, client):
        """Weighted tokens that the client was served so far."""
        return sum(
            INPUT_TOKEN_COST * (each.num_prompt_tokens - each.cached_tokens)
            + OUTPUT_TOKEN_COST * each.num_output_tokens
            for each in self.groups[client]
            if each.times.started is not None
        )

    def largest_difference(self, one, other, weight=1.0):
        """Between what two clients were served, over every interval."""
        pairs = zip(self.served[one], self.served[other], strict=True)
        ahead = [mine / weight - theirs for mine, theirs in pairs]
        return max(ahead) - min(ahead)


@pytest.fixture
def make_schedule(make_rig):
    def make(*, parks=False, **limits):
        kv = {"host_budget_bytes": 1 << 20 if parks else 0}
        backend = FakeBackend(num_cells=NUM_CELLS)
        return Schedule(make_rig(backend, kv=kv, queue_timeout_s=1e9, token_budget=16, **limits))

    return make


def test_what_two_backlogged_clients_are_served_differs_by_a_constant_at_most(make_schedule):
    schedule = make_schedule()
    for _ in range(1200):
        schedule.top_up(GREEDY, 50)
        schedule.top_up(MODEST, 5)
        schedule.step()
    assert min(schedule.served[GREEDY][-1], schedule.served[MODEST][-1]) > 5 * BOUND
    assert schedule.largest_difference(GREEDY, MODEST) <= BOUND


def test_long_requests_gain_nothing_over_short_ones(make_schedule):
    schedule = make_schedule()
    for _ in range(1200):
        schedule.top_up(GREEDY, 5, max_output=50)
        schedule.top_up(MODEST, 5, max_output=3)
        schedule.step()
    assert schedule.served[MODEST][-1] > 5 * BOUND
    assert schedule.largest_difference(GREEDY, MODEST) <= BOUND


def test_parking_takes_nothing_from_fairness_in_the_long_run(make_schedule):
    schedule = make_schedule(parks=True)
    for _ in range(2400):
        schedule.top_up(GREEDY, 5, max_output=50)
        schedule.top_up(MODEST, 5, max_output=3)
        schedule.step()
    assert schedule.rig.observer.num_parkings > 20
    assert schedule.served[MODEST][-1] > 10 * BOUND
    assert schedule.largest_difference(GREEDY, MODEST) <= 2 * BOUND


def test_a_client_that_was_idle_saved_nothing_up(make_schedule):
    schedule = make_schedule()
    for _ in range(600):
        schedule.top_up(GREEDY, 10)
        schedule.step()
    assert schedule.served[GREEDY][-1] > 5 * BOUND
    schedule.top_up(MODEST, 10)
    schedule.served.clear()
    for _ in range(600):
        schedule.top_up(GREEDY, 10)
        schedule.top_up(MODEST, 10)
        schedule.step()
    assert schedule.largest_difference(GREEDY, MODEST) <= BOUND


def test_each_of_several_choices_counts(make_schedule):
    schedule = make_schedule()
    for _ in range(1200):
        schedule.top_up(GREEDY, 5, choice_count=3)
        schedule.top_up(MODEST, 5)
        schedule.step()
    assert schedule.served[MODEST][-1] > 5 * BOUND
    assert schedule.largest_difference(GREEDY, MODEST) <= BOUND


def test_shares_follow_the_weights(make_schedule):
    schedule = make_schedule(client_weights={"acme/greedy": 3.0})
    for _ in range(1200):
        schedule.top_up(GREEDY, 20)
        schedule.top_up(MODEST, 20)
        schedule.step()
    assert schedule.served[MODEST][-1] > 2 * BOUND
    assert schedule.largest_difference(GREEDY, MODEST, weight=3.0) <= BOUND


def test_a_client_that_leaves_capacity_unused_leaves_it_to_others(make_schedule):
    schedule = make_schedule()
    for _ in range(300):
        schedule.top_up(GREEDY, 10)
        schedule.step()
        assert len(schedule.rig.scheduler.running) >= 2


def wait_for_background(schedule, max_steps):
    """A background request under a load of default priority that never ends; when it was done."""
    schedule.top_up(GREEDY, 10, priority=10)
    background = schedule.rig.submit(b"b", max_output=3, priority=1, client=MODEST)
    for _ in range(max_steps):
        schedule.top_up(GREEDY, 3, priority=10)
        schedule.rig.clock.advance(0.05)
        schedule.step()
        if background.output.finished:
            return schedule.rig.clock() - background.group.times.arrived
    return None


def test_a_background_request_is_served_in_time_however_much_comes_before_it(make_schedule):
    waited_s = wait_for_background(make_schedule(num_seats=2, ageing_s_per_level=2.0), 2000)
    assert 9 * 2.0 <= waited_s < 40


def test_without_ageing_it_would_never_be(make_schedule):
    assert wait_for_background(make_schedule(num_seats=2, ageing_s_per_level=0), 2000) is None


def test_everybody_under_mixed_priorities_is_served_in_the_end(make_schedule):
    schedule = make_schedule(num_seats=3)
    clients = [ClientKey("acme", name) for name in "abcdef"]
    for client, priority in zip(clients, (1, 1, 10, 10, 50, 100), strict=True):
        schedule.top_up(client, 8, priority=priority)
    for _ in range(2000):
        schedule.rig.clock.advance(0.1)
        schedule.step()
    ends = [each.output.finished for groups in schedule.groups.values() for each in groups]
    assert ends == [[FinishReason.LENGTH]] * 48
