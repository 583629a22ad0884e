import pytest

from caravan_engine.host.restart_policy import Life, RestartPolicy, RestartRules

NEVER_READY = Life(ready_for_s=None)
SHORT = Life(ready_for_s=1.0)
LONG = Life(ready_for_s=1000.0)


@pytest.fixture
def policy():
    return RestartPolicy(
        RestartRules(initial_backoff_s=1.0, max_backoff_s=8.0, stable_after_s=60.0)
    )


def test_three_starts_in_a_row_that_were_never_ready_are_enough(policy):
    pauses = [policy.pause_after(NEVER_READY) for _ in range(3)]

    assert pauses == [1.0, 2.0, None]
    assert policy.num_failed_starts == 3


def test_being_ready_once_resets_the_count_of_failed_starts(policy):
    policy.pause_after(NEVER_READY)
    policy.pause_after(NEVER_READY)
    policy.pause_after(SHORT)

    assert policy.pause_after(NEVER_READY) is not None
    assert policy.pause_after(NEVER_READY) is not None
    assert policy.pause_after(NEVER_READY) is None


def test_a_worker_that_keeps_dying_after_becoming_ready_is_restarted_ever_more_slowly(policy):
    assert [policy.pause_after(SHORT) for _ in range(5)] == [1.0, 2.0, 4.0, 8.0, 8.0]


def test_a_stable_life_starts_the_pauses_over(policy):
    policy.pause_after(SHORT)
    policy.pause_after(SHORT)

    assert policy.pause_after(LONG) == 1.0


def test_deaths_without_end_do_not_overflow(policy):
    assert {policy.pause_after(SHORT) for _ in range(2000)} == {1.0, 2.0, 4.0, 8.0}


def test_a_life_makes_up_for_earlier_deaths_by_its_length(policy):
    for _ in range(100):
        policy.pause_after(SHORT)
    assert [policy.pause_after(Life(ready_for_s=31.0)) for _ in range(3)] == [4.0, 2.0, 1.0]


def test_deaths_that_are_far_apart_do_not_add_up(policy):
    assert {policy.pause_after(Life(ready_for_s=16.0)) for _ in range(10)} == {1.0}
