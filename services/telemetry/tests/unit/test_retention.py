import asyncio

import pytest

from caravan_telemetry.domain.errors import StoreUnavailableError
from caravan_telemetry.runtime.retention import REMOVAL_BATCH, remove_expired_forever


async def run_rounds(remove, rounds: asyncio.Event) -> None:
    task = asyncio.ensure_future(remove_expired_forever(remove, interval_s=0, pause_s=0))
    await rounds.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_removal_goes_on_until_little_is_left():
    left, done, calls = 2 * REMOVAL_BATCH + 1, asyncio.Event(), []

    async def remove(limit: int) -> int:
        nonlocal left
        removed = min(limit, left)
        left -= removed
        calls.append(removed)
        if not left:
            done.set()
        return removed

    await run_rounds(remove, done)
    assert calls[:3] == [REMOVAL_BATCH, REMOVAL_BATCH, 1]


async def test_a_store_that_fails_is_tried_again():
    attempts, done = 0, asyncio.Event()

    async def remove(limit: int) -> int:
        nonlocal attempts
        attempts += 1
        if attempts == 1:
            raise StoreUnavailableError
        done.set()
        return 0

    await run_rounds(remove, done)
    assert attempts >= 2
