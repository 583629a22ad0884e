import asyncio

import pytest

from caravan_gateway.runtime.stream_ledger import StreamLedger
from caravan_testkit.waiting import wait_until_async


class World:
    def __init__(self):
        self.num_taken = self.num_written = 0
        self.told = []
        self.answers = True
        self.ledger = StreamLedger(
            self._tell,
            num_taken=lambda: self.num_taken,
            num_written=lambda: self.num_written,
        )

    async def _tell(self, endpoint, recorded, dropped):
        self.told.append((endpoint.worker_id, sorted(recorded), sorted(dropped)))
        return self.answers

    async def until_told(self, count):
        async def told():
            return len(self.told) >= count

        await wait_until_async(told, timeout_s=20, what=f"{count} words")


@pytest.fixture
async def world():
    world = World()
    task = asyncio.create_task(world.ledger.run())
    yield world
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_workers_hear_of_records_many_at_a_time(world, make_endpoint):
    world.ledger.accounted(make_endpoint("w1"), "a", is_wanted=True)
    world.ledger.accounted(make_endpoint("w1"), "b", is_wanted=False)
    world.ledger.accounted(make_endpoint("w2"), "c", is_wanted=True)
    await world.until_told(2)
    assert world.told == [("w1", ["a"], ["b"]), ("w2", ["c"], [])]


async def test_a_record_is_told_of_only_when_it_is_written(world, make_endpoint):
    world.num_taken = 5
    world.ledger.accounted(make_endpoint("w1"), "early", is_wanted=True)
    world.ledger.accounted(make_endpoint("w1"), "dropped", is_wanted=False)
    world.ledger.disowned(make_endpoint("w1"), "elsewhere")  # it is recorded there
    await world.until_told(1)
    assert world.told == [("w1", [], ["elsewhere"])]
    world.num_written = 5
    await world.until_told(2)
    assert world.told[1] == ("w1", ["early"], ["dropped"])


async def test_a_worker_that_does_not_answer_is_told_again(world, make_endpoint):
    world.answers = False
    world.ledger.accounted(make_endpoint("w1"), "a", is_wanted=True)
    await world.until_told(2)
    world.answers = True
    await world.until_told(3)
    assert set(map(str, world.told)) == {str(("w1", ["a"], []))}
