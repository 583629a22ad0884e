"""The files of one model's pages in one layout: a folder that one process at a time holds.

A file appears under its name only when it is whole. Nothing is forced to the medium: what a power
failure tears is found by its checksums and computed again. Only `erase` waits for the medium.
"""

import contextlib
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

from caravan_engine.domain.paging.page_image import PageImage
from caravan_engine.storage.file_lock import locked
from caravan_engine.storage.page_files import (
    HEADER_GUESS_BYTES,
    PageHeader,
    PageIdentity,
    header_size,
    read_header,
    unpack,
)
from caravan_engine.storage.page_losses import LossCause, PageFileError

_log = logging.getLogger(__name__)

_PAGE, _PARTIAL, _LOCK = ".page", ".partial", "lock"
_ZEROS = bytes(1 << 20)
_NO_FOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC


class PageFolder:
    """Reads and writes from any thread; the caller keeps two from changing the same page at once.

    Methods raise OSError as the system says, and PageFileError for contents that are not right.

    Args:
        path: The folder.
        identity: Of the context that pages come from and go to.
        lock: On the folder; None where no other process has a reason to use it.
    """

    def __init__(self, path: Path, identity: PageIdentity, lock: BinaryIO | None = None) -> None:
        self._path = path
        self._identity = identity
        self._lock = lock

    @classmethod
    def open(cls, directory: Path, identity: PageIdentity) -> Self:
        """Makes the folder, takes its lock and removes what was never finished.

        Other folders of the same model are removed with their pages: nothing fits them any more.

        Raises:
            OSError: the folder can't be used, or another process uses it (BlockingIOError).
        """
        path = directory / identity.folder_name
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = locked(path / _LOCK)
        try:
            for leftover in path.glob(f"*{_PARTIAL}"):
                leftover.unlink()
            for other in directory.glob(f"{identity.model_prefix}*"):
                if other != path:
                    _try_to_remove(other)
        except OSError:
            lock.close()
            raise
        return cls(path, identity, lock)

    def close(self) -> None:
        """Gives the lock back; nothing may be called afterwards."""
        if self._lock is not None:
            self._lock.close()

    def scan(self, most: int) -> Iterator[PageHeader | PageFileError]:
        """Yields the headers of the `most` pages used last, the one used longest ago first.

        Others, and what is no page of ours, are removed: it yields why.
        """
        paths = sorted(self._path.glob(f"*{_PAGE}"), key=_used_ns)
        num_surplus = max(0, len(paths) - most)
        for path in paths[:num_surplus]:
            yield _removed(path, PageFileError(LossCause.DISPLACED))
        for path in paths[num_surplus:]:
            try:
                yield self._look_at(path)
            except PageFileError as error:
                yield _removed(path, error)

    def write(self, key: bytes, header: bytes, stored: memoryview) -> None:
        """Stores a page; a folder that somebody removed is made again."""
        try:
            self._write(key, header, stored)
        except FileNotFoundError:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write(key, header, stored)

    def read(self, key: bytes) -> PageImage:
        """Reads and checks a page, and notes that it was used."""
        with _opened(self._name(key)) as file:
            header = self._header(file)
            if header.info.key != key:
                raise PageFileError(LossCause.DAMAGED, "of another key than its name says")
            image = unpack(header, _read_memory(file, header.stored_bytes, header.header_bytes))
            with contextlib.suppress(OSError):  # only tells a later run what was used last
                os.utime(file.fileno())
            return image

    def adopt(self, key: bytes) -> PageHeader | None:
        """Copies a page that another worker of the same model has; None if none has it.

        What is copied is checked when it is read, like everything here.
        """
        folders = self._path.parent.parent.glob(f"*/{self._path.name}")
        for folder in folders:
            if folder != self._path:
                with contextlib.suppress(FileNotFoundError), _opened(folder / _file(key)) as file:
                    header = self._header(file)
                    self._write(key, file)
                    return header
        return None

    def remove(self, key: bytes) -> None:
        """Removes a page, if it is there."""
        self._name(key).unlink(missing_ok=True)

    def erase(self, key: bytes) -> None:
        """Overwrites a page with zeros on the medium, and removes it."""
        path = self._name(key)
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_NONBLOCK | _NO_FOLLOW), "wb") as file:
                _overwrite(file)  # a pipe that somebody put there can't be opened
        except FileNotFoundError:
            return
        finally:
            path.unlink(missing_ok=True)

    def _name(self, key: bytes) -> Path:
        return self._path / _file(key)

    def _write(self, key: bytes, *parts: bytes | memoryview | BinaryIO) -> None:
        partial = self._path / f"{key.hex()}{_PARTIAL}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NO_FOLLOW
        try:
            with os.fdopen(os.open(partial, flags, 0o600), "wb") as file:
                for part in parts:
                    if isinstance(part, bytes | memoryview):
                        file.write(part)
                    else:
                        shutil.copyfileobj(part, file, len(_ZEROS))
            partial.replace(self._name(key))
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def _look_at(self, path: Path) -> PageHeader:
        try:
            with _opened(path) as file:
                header = self._header(file)
                if path.stem != header.info.key.hex():
                    raise PageFileError(LossCause.DAMAGED, "of another key than its name says")
                return header
        except OSError as error:
            raise PageFileError(LossCause.READ_FAILED, _words(error)) from error

    def _header(self, file: BinaryIO) -> PageHeader:
        """Reads the header and compares its lengths with the file's, before anything large."""
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise PageFileError(LossCause.DAMAGED, "no regular file")
        start = _read(file, HEADER_GUESS_BYTES, 0)
        size = header_size(start)
        if size > len(start):
            start = _read(file, size, 0)
        header = read_header(start[:size], self._identity)
        if status.st_size != header.file_bytes:
            raise PageFileError(LossCause.DAMAGED, "not as long as its header says")
        return header


def _file(key: bytes) -> str:
    return f"{key.hex()}{_PAGE}"


def _opened(path: Path) -> BinaryIO:
    """Opens for reading; a pipe that somebody put there can't hold us."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | _NO_FOLLOW), "rb")


def _read(file: BinaryIO, num_bytes: int, offset: int) -> bytes:
    """Reads so much, or less at the end; one call of the system reads 2 GiB at most."""
    data = os.pread(file.fileno(), num_bytes, offset)
    while len(data) < num_bytes:
        more = os.pread(file.fileno(), num_bytes - len(data), offset + len(data))
        if not more:
            break
        data += more
    return data


def _read_memory(file: BinaryIO, num_bytes: int, offset: int) -> memoryview:
    """Like `_read`, into memory that can be zeroed later."""
    data, at = memoryview(bytearray(num_bytes)), 0
    while at < num_bytes:
        more = os.preadv(file.fileno(), [data[at:]], offset + at)
        if not more:
            break
        at += more
    return data[:at]


def _overwrite(file: BinaryIO) -> None:
    remaining = os.fstat(file.fileno()).st_size
    while remaining > 0:
        remaining -= file.write(_ZEROS[:remaining])
    os.fsync(file.fileno())


def _try_to_remove(folder: Path) -> None:
    """Removes a folder of pages unless somebody holds it; files that are not ours stay in it."""
    try:
        _remove_folder(folder)
    except BlockingIOError:
        return
    except OSError as error:
        extra = {"directory": str(folder), "detail": _words(error)}
        _log.warning("old pages can't be removed", extra=extra)


def _remove_folder(folder: Path) -> None:
    with locked(folder / _LOCK):
        for pattern in (f"*{_PAGE}", f"*{_PARTIAL}", _LOCK):
            for path in folder.glob(pattern):
                path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _used_ns(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.lstat().st_mtime_ns
    return 0


def _removed(path: Path, why: PageFileError) -> PageFileError:
    """Removes a file and returns why; what can't be removed lies there and is never used."""
    with contextlib.suppress(OSError):
        path.unlink()
    return why


def _words(error: OSError) -> str:
    return error.strerror or type(error).__name__
