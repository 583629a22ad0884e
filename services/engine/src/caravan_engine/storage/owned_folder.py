"""A folder among those of other processes that anybody can tell is abandoned when its owner died.

The owner has a lock on the folder itself, which the kernel drops with the process, however it ends.
A process id written down would do as well until another process has it.
"""

import contextlib
import fcntl
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterable
from pathlib import Path

_TRIES = 100
_TRY_S = 0.01


class OwnedFolder:
    """Is made when it is needed. Usable from any thread.

    Owners share their lock: who gave two processes the same name has two owners, and none of them
    removes the other's. Whoever removes an abandoned one has the lock alone.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        self._calls = threading.Lock()

    def make(self) -> None:
        """Makes the folder unless it is there, for this user alone, and owns it.

        Raises:
            OSError: it can't be made, or what is there is not this user's alone.
        """
        with self._calls:
            for _ in range(_TRIES):
                if self._fd is not None and _leads_to(self._path, self._fd):
                    return
                self._let_go()
                with contextlib.suppress(FileExistsError):
                    self._path.mkdir(mode=0o700)
                # Somebody may take it for abandoned until it is locked.
                with contextlib.suppress(FileNotFoundError, BlockingIOError):
                    self._fd = _locked(self._path, fcntl.LOCK_SH)
                    continue
                time.sleep(_TRY_S)  # a sweeper holds it for moments; nothing tells when it lets go
        raise BlockingIOError(f"held by another process: {self._path}")

    def remove_if_empty(self) -> None:
        """Removes it if there is nothing in it; another owner's stays."""
        with self._calls:
            if self._fd is None or any(self._path.glob("*")):
                return
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._path.rmdir()
            except (BlockingIOError, FileNotFoundError):
                pass
            except OSError:  # something is in it by now
                fcntl.flock(self._fd, fcntl.LOCK_SH)
                return
            self._let_go()

    def remove(self) -> None:
        """Removes it with all that is in it; another owner's stays."""
        with self._calls:
            self._let_go()
            remove_abandoned([self._path])

    def _let_go(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def remove_abandoned(folders: Iterable[Path]) -> None:
    """Removes those of this user that nobody owns, with all that is in them."""
    for path in folders:
        with contextlib.suppress(OSError):  # somebody's, or gone, or no such folder
            fd = _locked(path, fcntl.LOCK_EX)
            try:
                if _leads_to(path, fd):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(fd)


def is_private(path: Path) -> bool:
    """Whether it is a folder of this user, which nobody else can look into."""
    try:
        return _is_private(path.lstat())
    except OSError:
        return False


def _locked(path: Path, lock: int) -> int:
    """Opens a folder of this user alone, and locks it without waiting."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not _is_private(os.fstat(fd)):
            raise PermissionError(f"not a folder of this user alone: {path}")
        fcntl.flock(fd, lock | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _is_private(status: os.stat_result) -> bool:
    is_ours = status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077
    return stat.S_ISDIR(status.st_mode) and is_ours


def _leads_to(path: Path, fd: int) -> bool:
    """Whether the folder that is open is the one that has the name by now."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.lstat(), os.fstat(fd))
    return False
