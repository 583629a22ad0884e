"""The journal of a worker's live requests: one file that one process at a time holds.

What is appended is on the medium when `append` returns. Nothing is changed in place: a shorter
journal is written beside it and takes its name when it is whole, and what the older one held is
overwritten with zeros, because there are prompts in it.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Self

from caravan_engine.domain.recovery.records import Record
from caravan_engine.storage.file_lock import locked
from caravan_engine.storage.journal_records import (
    HEADER_BYTES,
    IDENTITY_BYTES,
    JournalHeader,
    pack,
    read_header,
    unpack,
)

_PARTIAL, _LOCK = ".partial", ".lock"
_ZEROS = bytes(1 << 16)
_NO_FOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC


class JournalFile:
    """Methods raise OSError as the system says; then the file has to be discarded.

    One thread at a time.
    """

    def __init__(self, path: Path, identity: bytes, lock: BinaryIO) -> None:
        self._path = path
        self._identity = identity
        self._lock = lock
        self._file: BinaryIO | None = None
        self._header: JournalHeader | None = None
        self._num_records = 0
        self.num_bytes = 0

    @classmethod
    def open(cls, directory: Path, model_digest: str) -> Self:
        """Makes the folder and takes the lock of a model's journal in it.

        Raises:
            OSError: the folder can't be used, or another process uses the journal
                (BlockingIOError).
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        identity = hashlib.blake2b(model_digest.encode(), digest_size=IDENTITY_BYTES).digest()
        path = directory / f"{identity.hex()}.journal"
        return cls(path, identity, locked(path.with_suffix(_LOCK)))

    def read(self, most_bytes: int) -> Iterator[Record]:
        """Yields what an earlier run recorded, up to the first record that isn't whole.

        Nothing if it is of another model or version, no regular file, or larger than it may be.
        """
        try:
            data = _content(self._path, most_bytes)
        except FileNotFoundError:
            return
        header = read_header(data)
        if header is not None and header.identity == self._identity:
            yield from unpack(data[HEADER_BYTES:], header.nonce)

    def rewrite(self, records: Iterable[Record]) -> None:
        """Begins anew with `records`; what was there before is zeroed."""
        header = JournalHeader.new(self._identity)
        frames, count = pack(records, header.nonce, 0)
        partial = self._path.with_suffix(_PARTIAL)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NO_FOLLOW
        file = os.fdopen(os.open(partial, flags, 0o600), "wb", buffering=0)
        try:
            _write(file.fileno(), header.to_bytes() + frames)
            os.fsync(file.fileno())
            self._take_name(partial)
        except OSError:
            file.close()
            partial.unlink(missing_ok=True)
            raise
        self._file, self._header = file, header
        self._num_records, self.num_bytes = count, HEADER_BYTES + len(frames)

    def append(self, records: Iterable[Record]) -> None:
        """Adds records, all of them or, when the process dies meanwhile, the first so many."""
        if self._file is None or self._header is None:
            raise ValueError("a journal begins with rewrite")
        frames, count = pack(records, self._header.nonce, self._num_records)
        _write(self._file.fileno(), frames)
        os.fdatasync(self._file.fileno())
        self._num_records += count
        self.num_bytes += len(frames)

    def discard(self) -> None:
        """Zeroes and removes the journal: nothing is found in it later."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self.num_bytes = 0
        self._path.with_suffix(_PARTIAL).unlink(missing_ok=True)
        try:
            _erase(self._path)
        except FileNotFoundError:
            return
        finally:
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Gives the lock back; what is in the journal stays."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._lock.close()

    def _take_name(self, partial: Path) -> None:
        """Puts the new journal in the place of the old one, which is zeroed then."""
        with contextlib.ExitStack() as exits:
            old = None
            with contextlib.suppress(OSError):  # not there, or nothing that we wrote
                old = exits.enter_context(_opened_for_writing(self._path))
            partial.replace(self._path)
            _sync_folder(self._path.parent)
            if old is not None:
                _overwrite(old)
        if self._file is not None:
            self._file.close()
            self._file = None


def _write(descriptor: int, data: bytes) -> None:
    """Writes everything; one call of the system may write a part."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _content(path: Path, most_bytes: int) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | _NO_FOLLOW), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > most_bytes:
            return b""
        return file.read()


def _erase(path: Path) -> None:
    with _opened_for_writing(path) as file:
        _overwrite(file)


def _opened_for_writing(path: Path) -> BinaryIO:
    """Opens what is there; a pipe that somebody put there can't hold us."""
    flags = os.O_WRONLY | os.O_NONBLOCK | _NO_FOLLOW
    return os.fdopen(os.open(path, flags), "wb", buffering=0)


def _overwrite(file: BinaryIO) -> None:
    remaining = os.fstat(file.fileno()).st_size
    while remaining > 0:
        remaining -= os.write(file.fileno(), _ZEROS[:remaining])
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
