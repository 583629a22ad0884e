import asyncio
import threading
from contextlib import aclosing

import pytest

from caravan_policy.domain.authorizer import Authorizer
from caravan_policy.domain.changes import Outcome, PolicyChange
from caravan_policy.domain.errors import NotFoundError
from caravan_policy.domain.policy_set import PolicySet
from caravan_policy.runtime.blocking_calls import BlockingCalls
from caravan_policy.runtime.change_applier import ChangeApplier
from caravan_policy.runtime.policy_feed import PolicyEvent, PolicyFeed


@pytest.fixture
def blocking():
    blocking = BlockingCalls(2)
    yield blocking
    blocking.close()


@pytest.fixture
def authorizer(plain_rules):
    return Authorizer(plain_rules(PolicySet(1, (), {})), lambda allowed: None)


@pytest.fixture
def feed():
    return PolicyFeed(1, max_watchers=2, buffered_events=100)


@pytest.fixture
def changes(blocking, authorizer, feed):
    return ChangeApplier(blocking, authorizer, feed)


@pytest.fixture
def outcome(plain_rules):
    def outcome(version, *revoked):
        return Outcome(version, PolicyChange(plain_rules(PolicySet(version, (), {})), revoked))

    return outcome


async def test_change_is_in_force_and_announced_when_apply_returns(
    changes, authorizer, feed, outcome
):
    async with aclosing(feed.watch()) as events:
        await anext(events)
        assert await changes.apply(lambda: outcome(2, "k")) == 2
        assert authorizer.policy_version == 2
        assert await anext(events) == PolicyEvent(2, ("k",))


async def test_outcome_without_a_change_is_not_announced(changes, authorizer):
    assert await changes.apply(lambda: Outcome("same")) == "same"
    assert authorizer.policy_version == 1


async def test_caller_that_leaves_does_not_stop_what_was_begun(changes, authorizer, outcome):
    begun, go_on = threading.Event(), threading.Event()

    def mutation():
        begun.set()
        assert go_on.wait(10)
        return outcome(2)

    caller = asyncio.create_task(changes.apply(mutation))
    await asyncio.to_thread(begun.wait, 10)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert authorizer.policy_version == 1
    go_on.set()
    await changes.drain()
    assert authorizer.policy_version == 2


async def test_failure_reaches_the_caller_and_the_next_change_works(changes, authorizer, outcome):
    def refuse():
        raise NotFoundError("principal", "nobody")

    with pytest.raises(NotFoundError):
        await changes.apply(refuse)
    await changes.apply(lambda: outcome(2))
    assert authorizer.policy_version == 2


async def test_changes_are_announced_in_the_order_of_their_versions(changes, feed, outcome):
    versions = iter(range(2, 52))
    async with aclosing(feed.watch()) as events:
        await anext(events)
        await asyncio.gather(*(changes.apply(lambda: outcome(next(versions))) for _ in range(50)))
        seen = [(await anext(events)).policy_version for _ in range(50)]
    assert seen == list(range(2, 52))
