"""Puts changes into force: written, decided by, and told to watchers, in one order."""

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

from caravan_policy.domain.authorizer import Authorizer
from caravan_policy.domain.changes import Outcome, PolicyChange
from caravan_policy.runtime.blocking_calls import BlockingCalls
from caravan_policy.runtime.policy_feed import PolicyEvent, PolicyFeed

T = TypeVar("T")

_log = logging.getLogger("caravan.policy.changes")


class ChangeApplier:
    """Runs mutations one after another. Owned by the event loop."""

    def __init__(self, blocking: BlockingCalls, authorizer: Authorizer, feed: PolicyFeed) -> None:
        self._blocking = blocking
        self._authorizer = authorizer
        self._feed = feed
        self._turn = asyncio.Lock()
        self._running: set[asyncio.Task[object]] = set()

    async def apply(self, mutation: Callable[[], Outcome[T]]) -> T:
        """Runs `mutation` in a thread and returns its value once it is in force.

        A caller that leaves does not stop it: what is committed must become known.
        """
        task = asyncio.create_task(self._apply(mutation))
        self._running.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    async def drain(self) -> None:
        """Waits until no mutation is running."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _apply(self, mutation: Callable[[], Outcome[T]]) -> T:
        async with self._turn:
            outcome = await self._blocking.run(mutation)
            if outcome.change is not None:
                self._put_into_force(outcome.change)
            return outcome.value

    def _put_into_force(self, change: PolicyChange) -> None:
        self._authorizer.install(change.rules)
        self._feed.publish(PolicyEvent(change.rules.version, change.revoked_key_ids))
        _log.info(
            "policy changed",
            extra={
                "policy_version": change.rules.version,
                "revoked_key_ids": list(change.revoked_key_ids),
            },
        )

    def _forget(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # the caller may have left, and then nobody else asks
