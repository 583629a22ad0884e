import asyncio

import pytest

from caravan_testkit.clock import FakeClock
from caravan_testkit.network import free_port
from caravan_testkit.waiting import wait_until, wait_until_async


def test_fake_clock_moves_only_forward_and_only_when_told(fake_clock):
    start = fake_clock()
    assert fake_clock.monotonic() == start
    assert fake_clock.advance(2.5) == start + 2.5 == fake_clock()
    with pytest.raises(ValueError, match="go back"):
        FakeClock().advance(-1)


def test_wait_until_returns_the_first_truthy_value():
    values = iter([None, 0, "ready"])
    assert wait_until(lambda: next(values), timeout_s=5, what="three looks") == "ready"


def test_wait_until_names_what_never_came():
    with pytest.raises(TimeoutError, match="the port: not within 0"):
        wait_until(lambda: False, timeout_s=0, what="the port")


async def test_wait_until_async_ends_a_hanging_condition():
    with pytest.raises(TimeoutError, match="an answer"):
        await wait_until_async(asyncio.Event().wait, timeout_s=0.01, what="an answer")


async def test_wait_until_async_returns_the_value():
    async def condition() -> str:
        return "ready"

    assert await wait_until_async(condition, timeout_s=5, what="it") == "ready"


def test_free_port_is_unprivileged():
    assert free_port() >= 1024


def test_caravan_home_is_private_and_announced(caravan_home, monkeypatch):
    import os

    assert os.environ["CARAVAN_HOME"] == str(caravan_home)
    assert caravan_home.stat().st_mode & 0o777 == 0o700
    assert [name for name in os.environ if name.startswith("CARAVAN_")] == ["CARAVAN_HOME"]
