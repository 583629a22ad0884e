"""A file that one process holds: whoever else asks is refused at once."""

import fcntl
import os
from pathlib import Path
from typing import BinaryIO


def locked(path: Path) -> BinaryIO:
    """Makes the file where it is missing, and holds it until it is closed.

    Raises:
        OSError: another holds it, or there can't be such a file; a link is none.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.fdopen(os.open(path, flags, 0o600), "r+b")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise
    return lock
