"""Sees to it that workers find a place to leave pages, and that nothing stays there.

Of the host.
"""

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

from caravan_engine.storage.owned_folder import OwnedFolder

_log = logging.getLogger(__name__)

_LOOK_S = 1.0


class HandoverPlace:
    """Owned by the event loop.

    Args:
        directory: Where workers leave pages; None: nowhere.
        keep_s: For how long they stay.
        is_own: Whether no other host's workers use it. Then it is there only while somebody may
            leave something, or something lies in it.
    """

    def __init__(self, directory: Path | None, keep_s: float, *, is_own: bool) -> None:
        self._directory = directory
        self._folder = OwnedFolder(directory) if directory is not None and is_own else None
        self._keep_s = keep_s
        self._look_s = min(keep_s / 2, _LOOK_S) if is_own else keep_s / 2
        self._num_users = 0
        self._changes = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def open(self, *, has_successor: bool) -> AsyncIterator[bool]:
        """Keeps the place for a worker that is drained; tells whether it shall leave anything.

        Args:
            has_successor: Whether another worker of this host goes on with what it leaves.
        """
        if self._folder is None:
            # Others may use a shared one whose hosts this one doesn't know.
            yield has_successor or self._directory is not None
            return
        self._num_users += 1
        try:
            yield has_successor and await self._make(self._folder)
        finally:
            self._num_users -= 1
            await self._tidy()

    async def run(self) -> None:
        """Looks from time to time for what nobody takes, until cancelled."""
        while self._directory is not None:
            await self._tidy()
            await asyncio.sleep(self._look_s)

    def clear(self) -> None:
        """Removes all of it, if it is of this host alone: none of its workers lives."""
        if self._folder is not None:
            self._folder.remove()

    async def _make(self, folder: OwnedFolder) -> bool:
        async with self._changes:
            try:
                await asyncio.to_thread(folder.make)
            except OSError as error:
                extra = {"directory": str(self._directory), "detail": error.strerror or str(error)}
                _log.warning("folder of pages can't be used: nothing is handed over", extra=extra)
                return False
            return True

    async def _tidy(self) -> None:
        async with self._changes:
            await asyncio.to_thread(self._tidy_now)

    def _tidy_now(self) -> None:
        if self._directory is not None:
            remove_old(self._directory, self._keep_s)
            if not self._num_users:  # nobody is about to write
                remove_empty(self._directory)
                if self._folder is not None:
                    self._folder.remove_if_empty()


def remove_old(directory: Path, keep_s: float) -> None:
    """Removes what lies there for longer."""
    oldest = time.time() - keep_s
    for model in _entries(directory):
        for bundle in _entries(model):
            with contextlib.suppress(FileNotFoundError):
                if bundle.lstat().st_mtime <= oldest:
                    shutil.rmtree(bundle, ignore_errors=True)


def remove_empty(directory: Path) -> None:
    """Removes folders of models that are empty."""
    for model in _entries(directory):
        with contextlib.suppress(OSError):  # there is something in it
            model.rmdir()


def _entries(folder: Path) -> list[Path]:
    """Returns what is in a folder that others may remove meanwhile."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return list(folder.iterdir())
    return []
