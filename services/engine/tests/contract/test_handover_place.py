"""A host keeps a place for what its workers leave, for as long as there is something."""

import asyncio
import contextlib
import os

import pytest

from caravan_engine.storage.handover_place import HandoverPlace, remove_empty, remove_old
from caravan_engine.storage.owned_folder import is_private, remove_abandoned
from caravan_testkit.waiting import wait_until_async


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "place"


def leave(directory, name="request"):
    (directory / "model" / name).mkdir(parents=True)
    (directory / "model" / name / "1.page").write_text("")


async def test_it_is_there_while_a_worker_may_leave_something(directory):
    place = HandoverPlace(directory, 60, is_own=True)
    async with place.open(has_successor=True) as is_open:
        assert is_open
        assert is_private(directory)
        async with place.open(has_successor=True):
            pass
        assert directory.exists()
    assert not directory.exists()


async def test_it_is_not_made_for_a_worker_without_a_successor(directory):
    place = HandoverPlace(directory, 60, is_own=True)
    async with place.open(has_successor=False) as is_open:
        assert not is_open
        assert not directory.exists()


async def test_what_was_left_stays_until_it_is_taken_and_nothing_afterwards(directory):
    place = HandoverPlace(directory, 60, is_own=True)
    async with place.open(has_successor=True):
        leave(directory)
    remove_abandoned([directory])  # as another host would
    assert (directory / "model" / "request").exists()
    looking = asyncio.create_task(place.run())
    (directory / "model" / "request" / "1.page").unlink()
    (directory / "model" / "request").rmdir()
    await wait_until_async(lambda: _is_gone(directory), timeout_s=20, what="no folder")
    looking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await looking


async def _is_gone(directory):
    return not directory.exists()


async def test_nothing_is_left_where_somebody_else_has_the_place(directory):
    directory.write_text("in the way")
    place = HandoverPlace(directory, 60, is_own=True)
    async with place.open(has_successor=True) as is_open:
        assert not is_open
    assert directory.read_text() == "in the way"


@pytest.mark.parametrize("has_successor", [True, False])
async def test_a_shared_place_may_always_be_used_and_stays(directory, has_successor):
    directory.mkdir()
    place = HandoverPlace(directory, 60, is_own=False)
    async with place.open(has_successor=has_successor) as is_open:
        assert is_open
    place.clear()
    assert directory.exists()


async def test_where_nothing_may_be_left_there_is_no_place():
    place = HandoverPlace(None, 60, is_own=True)
    async with place.open(has_successor=False) as is_open:
        assert not is_open
    await place.run()
    place.clear()


async def test_a_host_that_ends_removes_what_nobody_took(directory):
    place = HandoverPlace(directory, 60, is_own=True)
    async with place.open(has_successor=True):
        leave(directory)
    place.clear()
    assert not directory.exists()


def test_what_nobody_takes_is_removed_after_its_time(directory):
    leave(directory, "old")
    os.utime(directory / "model" / "old", (0, 0))
    (directory / "model" / "new").mkdir()
    remove_old(directory, 3600)
    remove_empty(directory)
    assert [path.name for path in directory.glob("*/*")] == ["new"]
    (directory / "model" / "new").rmdir()
    remove_empty(directory)
    assert list(directory.iterdir()) == []
