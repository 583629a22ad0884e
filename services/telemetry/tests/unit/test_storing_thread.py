import asyncio
import threading

import pytest

from caravan_telemetry.domain.errors import DrainingError, IntakeFullError
from caravan_telemetry.runtime.storing_thread import StoringThread


async def test_work_runs_in_order_on_one_thread():
    thread = StoringThread(queue_limit=10)
    names = await asyncio.gather(
        *(thread.run(lambda: threading.current_thread().name) for _ in range(5))
    )
    await thread.close()
    assert len(set(names)) == 1
    assert names[0] != threading.current_thread().name


async def test_a_full_queue_refuses_at_once_and_has_room_again_later():
    thread = StoringThread(queue_limit=1)
    gate = threading.Event()
    first = asyncio.ensure_future(thread.run(gate.wait))
    await asyncio.sleep(0)
    with pytest.raises(IntakeFullError):
        await thread.run(lambda: None)
    gate.set()
    await first
    assert await thread.run(lambda: "room") == "room"
    assert thread.queued_count == 0
    await thread.close()


async def test_work_that_began_ends_although_its_caller_left():
    thread = StoringThread(queue_limit=1)
    gate, began, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        gate.wait()
        ended.set()

    caller = asyncio.ensure_future(thread.run(work))
    await asyncio.to_thread(began.wait)
    caller.cancel()
    gate.set()
    await thread.close()
    assert ended.is_set()


async def test_a_closed_thread_refuses():
    thread = StoringThread(queue_limit=1)
    await thread.close()
    with pytest.raises(DrainingError):
        await thread.run(lambda: None)


async def test_a_failure_of_the_work_reaches_its_caller():
    thread = StoringThread(queue_limit=1)
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 // 0)
    await thread.close()


async def test_work_that_matters_less_leaves_places_to_others():
    thread = StoringThread(queue_limit=4)
    release = threading.Event()
    waiting = [asyncio.create_task(thread.run(release.wait)) for _ in range(2)]
    await asyncio.sleep(0)
    try:
        with pytest.raises(IntakeFullError):
            await thread.run(lambda: None, spare_places=2)
        waiting.append(asyncio.create_task(thread.run(release.wait)))
        await asyncio.sleep(0)
        assert thread.queued_count == 3
    finally:
        release.set()
        await asyncio.gather(*waiting)
        await thread.close()
