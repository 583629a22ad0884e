"""Removes records that are over their age, a little at a time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from caravan_telemetry.domain.errors import TelemetryError

_log = logging.getLogger("caravan.telemetry.retention")

REMOVAL_BATCH = 2_000
"""Records removed in one transaction: short enough that no batch waits long behind it."""


async def remove_expired_forever(
    remove: Callable[[int], Awaitable[int]], *, interval_s: float, pause_s: float = 0.1
) -> None:
    """Calls `remove` with a limit until little is left, every `interval_s`; ends by cancelling.

    A failure is logged, and the next round tries again.
    """
    while True:
        try:
            removed = await _remove_all(remove, pause_s)
        except TelemetryError as error:
            _log.warning("records not removed", extra={"reason": error.reason})
        else:
            if removed:
                _log.info("records over their age removed", extra={"record_count": removed})
        await asyncio.sleep(interval_s)


async def _remove_all(remove: Callable[[int], Awaitable[int]], pause_s: float) -> int:
    total = 0
    while True:
        removed = await remove(REMOVAL_BATCH)
        total += removed
        if removed < REMOVAL_BATCH:
            return total
        await asyncio.sleep(pause_s)
