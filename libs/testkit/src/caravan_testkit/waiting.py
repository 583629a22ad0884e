"""Bounded waiting for what other processes do. Not for unit tests: those use a fake clock."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

_PAUSE_S = 0.02


def wait_until(condition: Callable[[], T], *, timeout_s: float, what: str) -> T:
    """Polls `condition` and returns its first truthy value.

    Raises:
        TimeoutError: naming `what`, when it stays falsy for `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        if value := condition():
            return value
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what}: not within {timeout_s} s")
        time.sleep(_PAUSE_S)


async def wait_until_async(
    condition: Callable[[], Awaitable[T]], *, timeout_s: float, what: str
) -> T:
    """Like `wait_until` for an async condition; the bound also ends a condition that hangs."""
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                if value := await condition():
                    return value
                await asyncio.sleep(_PAUSE_S)
    except TimeoutError:
        raise TimeoutError(f"{what}: not within {timeout_s} s") from None
