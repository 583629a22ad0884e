import asyncio

import pytest

from caravan_gateway.domain.single_flight import SingleFlight


async def test_one_run_serves_all_who_ask_meanwhile():
    flights = SingleFlight()
    release, runs = asyncio.Event(), []

    async def work():
        runs.append(1)
        await release.wait()
        return "answer"

    asking = [asyncio.create_task(flights.run("k", work)) for _ in range(5)]
    await asyncio.sleep(0)
    release.set()
    assert await asyncio.gather(*asking) == ["answer"] * 5
    assert len(runs) == 1
    assert len(flights) == 0
    await flights.run("k", work)
    assert len(runs) == 2


async def test_a_failure_reaches_everybody_and_is_not_kept():
    flights = SingleFlight()

    async def fail():
        raise ValueError

    results = await asyncio.gather(
        *(flights.run("k", fail) for _ in range(3)), return_exceptions=True
    )
    assert [type(result) for result in results] == [ValueError] * 3
    assert len(flights) == 0


async def test_who_leaves_does_not_end_the_run():
    flights = SingleFlight()
    release = asyncio.Event()

    async def work():
        await release.wait()
        return 1

    leaving = asyncio.create_task(flights.run("k", work))
    staying = asyncio.create_task(flights.run("k", work))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    release.set()
    assert await staying == 1


async def test_a_failure_after_everybody_left_is_nobodys_error():
    flights = SingleFlight()
    release = asyncio.Event()

    async def work():
        await release.wait()
        raise ValueError

    asking = asyncio.create_task(flights.run("k", work))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    release.set()
    while len(flights):
        await asyncio.sleep(0)


async def test_closing_ends_every_run():
    flights = SingleFlight()
    asking = asyncio.create_task(flights.run("k", asyncio.Event().wait))
    await asyncio.sleep(0)
    await flights.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert len(flights) == 0
