"""Sees to it that nothing stays of what workers leave to each other. Of the host."""

import asyncio
import contextlib
import shutil
import time
from pathlib import Path


class HandoverSweep:
    """Removes what nobody takes.

    Args:
        directory: Where workers leave pages.
        keep_s: For how long they stay.
        is_own: Whether no other host's workers use it.
    """

    def __init__(self, directory: Path, keep_s: float, *, is_own: bool) -> None:
        self._directory = directory
        self._keep_s = keep_s
        self._is_own = is_own

    async def run(self) -> None:
        """Looks from time to time, until cancelled."""
        while True:
            await asyncio.to_thread(sweep, self._directory, self._keep_s)
            await asyncio.sleep(self._keep_s / 2)

    def clear(self) -> None:
        """Removes the folder, if it is of this host alone: none of its workers lives."""
        if self._is_own:
            shutil.rmtree(self._directory, ignore_errors=True)


def sweep(directory: Path, keep_s: float) -> None:
    """Removes what lies there for longer, and folders of models that are empty."""
    oldest = time.time() - keep_s
    for bundle in directory.glob("*/*"):
        with contextlib.suppress(FileNotFoundError):
            if bundle.lstat().st_mtime <= oldest:
                shutil.rmtree(bundle, ignore_errors=True)
    for model in directory.glob("*"):
        with contextlib.suppress(OSError):  # there is something in it
            model.rmdir()
