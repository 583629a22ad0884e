import asyncio

import pytest

from caravan_engine.host.broadcast import Broadcast
from caravan_engine.host.errors import TooManyWatchersError


async def collect(broadcast):
    return [value async for value in broadcast.watch()]


async def test_a_watcher_gets_the_value_at_once_and_each_change():
    broadcast = Broadcast("a", max_watchers=1)
    watch = broadcast.watch()

    assert await anext(watch) == "a"
    broadcast.publish("b")
    assert await anext(watch) == "b"


async def test_a_slow_watcher_gets_only_the_latest():
    broadcast = Broadcast(0, max_watchers=1)
    watch = broadcast.watch()
    await anext(watch)
    for value in range(1, 100):
        broadcast.publish(value)

    assert await anext(watch) == 99


async def test_an_equal_value_wakes_nobody():
    broadcast = Broadcast("a", max_watchers=1)
    watch = broadcast.watch()
    await anext(watch)
    broadcast.publish("a")
    pending = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)

    assert not pending.done()
    broadcast.publish("b")
    assert await pending == "b"


async def test_closing_ends_watches_after_the_last_value():
    broadcast = Broadcast("a", max_watchers=2)
    tasks = [asyncio.create_task(collect(broadcast)) for _ in range(2)]
    await asyncio.sleep(0)
    broadcast.publish("b")
    broadcast.close()

    assert await asyncio.gather(*tasks) == [["a", "b"], ["a", "b"]]


async def test_a_late_watcher_of_a_closed_broadcast_gets_the_last_value():
    broadcast = Broadcast("a", max_watchers=1)
    broadcast.publish("b")
    broadcast.close()

    assert await collect(broadcast) == ["b"]


async def test_watchers_are_bounded_and_leave_their_place():
    broadcast = Broadcast("a", max_watchers=1)
    watch = broadcast.watch()
    await anext(watch)
    with pytest.raises(TooManyWatchersError):
        await anext(broadcast.watch())
    await watch.aclose()

    assert broadcast.num_watchers == 0
    assert await anext(broadcast.watch()) == "a"
