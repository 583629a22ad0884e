import asyncio
from contextlib import aclosing

import pytest

from caravan_policy.domain.errors import DrainingError, ReaderStalledError, TooManyWatchersError
from caravan_policy.runtime.policy_feed import PolicyEvent, PolicyFeed


def _feed(*, version=5, max_watchers=2, buffered_events=3):
    return PolicyFeed(version, max_watchers=max_watchers, buffered_events=buffered_events)


async def test_watcher_gets_the_version_at_once_and_then_every_change():
    feed = _feed()
    async with aclosing(feed.watch()) as events:
        assert await anext(events) == PolicyEvent(5)
        feed.publish(PolicyEvent(6, ("k1",)))
        feed.publish(PolicyEvent(7))
        assert await anext(events) == PolicyEvent(6, ("k1",))
        assert await anext(events) == PolicyEvent(7)


async def test_late_watcher_starts_with_the_present_version():
    feed = _feed()
    feed.publish(PolicyEvent(9, ("k",)))
    async with aclosing(feed.watch()) as events:
        assert await anext(events) == PolicyEvent(9)


async def test_waiting_watcher_is_woken_by_a_change():
    feed = _feed()
    async with aclosing(feed.watch()) as events:
        await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        feed.publish(PolicyEvent(6))
        assert await waiting == PolicyEvent(6)


async def test_slow_watcher_is_ended_and_others_are_not():
    feed = _feed(buffered_events=2)
    async with aclosing(feed.watch()) as slow, aclosing(feed.watch()) as quick:
        await anext(slow)
        await anext(quick)
        for version in (6, 7, 8):
            feed.publish(PolicyEvent(version))
            assert await anext(quick) == PolicyEvent(version)
        assert feed.num_watchers == 1
        with pytest.raises(ReaderStalledError):
            await anext(slow)


async def test_watchers_are_bounded_and_a_place_is_free_again_when_one_leaves():
    feed = _feed(max_watchers=1)
    async with aclosing(feed.watch()) as events:
        await anext(events)
        async with aclosing(feed.watch()) as other:
            with pytest.raises(TooManyWatchersError):
                await anext(other)
    assert feed.num_watchers == 0
    async with aclosing(feed.watch()) as events:
        await anext(events)


async def test_cancelled_watcher_leaves_nothing_behind():
    feed = _feed()
    events = feed.watch()
    await anext(events)
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert feed.num_watchers == 0


async def test_closed_feed_ends_watchers_after_what_they_have_and_admits_no_more():
    feed = _feed()
    async with aclosing(feed.watch()) as events:
        await anext(events)
        feed.publish(PolicyEvent(6))
        feed.close()
        assert await anext(events) == PolicyEvent(6)
        with pytest.raises(DrainingError):
            await anext(events)
    async with aclosing(feed.watch()) as events:
        with pytest.raises(DrainingError):
            await anext(events)
