"""Tasks that run as long as the gateway does."""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

_log = logging.getLogger(__name__)


def run_in_background(
    resources: AsyncExitStack, work: Coroutine[Any, Any, None], name: str
) -> None:
    """Runs `work` until `resources` are given back; if it fails, the log says so."""
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_log_death)
    resources.push_async_callback(_end, task)


def _log_death(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.critical("%s has stopped working", task.get_name(), exc_info=error)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
