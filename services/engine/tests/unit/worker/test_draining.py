"""A worker that drains finishes, hands over, or ends what is left, in this order."""

import asyncio
from concurrent.futures import Future

import pytest

from caravan_engine.domain.errors import DrainingError
from caravan_engine.worker.draining import Draining


class Engine:
    """A decode loop whose requests end when the test says so."""

    def __init__(self, num_running):
        self.num_running = num_running
        self.drained, self.handed_over = Future(), Future()
        self.told = []

    def drain(self):
        self.told.append("drain")
        return self.drained

    def hand_over(self, leave):
        self.told.append(leave)
        return self.handed_over

    def end_all(self, error):
        assert isinstance(error, DrainingError)
        self.told.append("end all")
        ended = Future()
        ended.set_result(self.num_running)
        if not self.handed_over.done():
            self.handed_over.set_result(1)
        return ended


class Server:
    def __init__(self):
        self.is_serving = True

    def set_all_serving(self, serving):
        self.is_serving = serving


class Handover:
    def leave(self, request, images):
        raise AssertionError("the engine calls it")


@pytest.fixture
def make():
    def make(num_running=2, *, hands_over=True, handover_s=20.0):
        engine, handover = Engine(num_running), Handover() if hands_over else None
        return engine, Draining(engine, Server(), handover, handover_s)

    return make


async def test_with_time_enough_nothing_is_ended(make):
    engine, draining = make()
    engine.drained.set_result(None)
    assert await draining.drain(20, hands_over=True) == 0
    assert engine.told == ["drain"]


async def test_what_is_left_is_handed_over(make):
    engine, draining = make()
    engine.handed_over.set_result(3)
    assert await draining.drain(0, hands_over=True) == 3
    assert "end all" not in engine.told


async def test_what_is_left_when_that_takes_too_long_is_ended(make):
    engine, draining = make(2, handover_s=0)
    assert await draining.drain(0, hands_over=True) == 2 + 1
    assert engine.told[-1] == "end all"


@pytest.mark.parametrize(("has_folder", "hands_over"), [(False, True), (True, False)])
async def test_where_nobody_could_take_it_everything_is_ended_at_once(make, has_folder, hands_over):
    engine, draining = make(2, hands_over=has_folder)
    assert await draining.drain(0, hands_over=hands_over) == 2
    assert engine.told == ["drain", "end all"]


async def test_who_is_told_twice_ends_once(make):
    engine, draining = make()
    both = asyncio.gather(draining.drain(0, hands_over=True), draining.drain(0, hands_over=False))
    while len(engine.told) < 3:
        await asyncio.sleep(0)
    engine.handed_over.set_result(2)
    assert await both == [2, 2]
    assert "end all" not in engine.told
