"""A service's own folder in CARAVAN_HOME: private, writable, and owned by one process at a time."""

import fcntl
import os
import stat
import tempfile
from pathlib import Path
from types import TracebackType
from typing import ClassVar

from caravan_rpckit.errors import CaravanError, Reason

_LOCK_NAME = "lock"
_PROBE_BYTES = 4096


class DataDirectoryInUseError(CaravanError):
    """Another process holds the directory.

    Like its sibling it names the path: both end a start on stderr and never reach a client.
    """

    reason: ClassVar[Reason] = Reason.DATA_DIRECTORY_IN_USE


class DataDirectoryUnwritableError(CaravanError):
    """The directory can't be created or written: permissions, a read-only or a full disk."""

    reason: ClassVar[Reason] = Reason.DATA_DIRECTORY_UNWRITABLE


class DataDirectory:
    """Holds `home/<name>` (mode 0700) until it is closed or the process ends, however it ends.

    The lock is `flock` on a file inside: the kernel drops it with the process, so a crash leaves
    nothing to clean up, unlike a pid file. Programs started with exec don't inherit it. It works
    between containers that share a local volume, not across hosts on every network file system.
    """

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd: int | None = lock_fd

    @classmethod
    def open(cls, home: Path, name: str) -> "DataDirectory":
        """Creates `home/<name>` where it is missing, takes its lock and tries to write.

        Raises:
            DataDirectoryInUseError: naming the directory and the holder's process id.
            DataDirectoryUnwritableError: naming the directory and the system's reason.
        """
        path = home.absolute() / name
        try:
            # A home that exists keeps its mode: it may be a folder that isn't ours alone.
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_private(path)
            lock_fd = os.open(path / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                _lock(lock_fd, path)
                _probe(path)
            except BaseException:
                os.close(lock_fd)
                raise
        except OSError as error:
            raise DataDirectoryUnwritableError(
                f"can't write to the data directory {path}: {error.strerror}",
                metadata={"directory": str(path)},
            ) from error
        return cls(path, lock_fd)

    def close(self) -> None:
        """Lets the next process in; closing twice does nothing."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def __enter__(self) -> "DataDirectory":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _make_private(path: Path) -> None:
    path.mkdir(mode=0o700, exist_ok=True)
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        path.chmod(0o700)


def _lock(lock_fd: int, path: Path) -> None:
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock_fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise DataDirectoryInUseError(
            f"the data directory {path} is in use by process {holder}; "
            "stop it, or give this one another CARAVAN_HOME",
            metadata={"directory": str(path), "pid": holder},
        ) from None
    os.ftruncate(lock_fd, 0)
    os.pwrite(lock_fd, f"{os.getpid()}\n".encode("ascii"), 0)


def _probe(path: Path) -> None:
    """Finds a full or read-only disk now rather than in the middle of a request."""
    with tempfile.TemporaryFile(dir=path) as probe:
        probe.write(bytes(_PROBE_BYTES))
        probe.flush()
        os.fsync(probe.fileno())
