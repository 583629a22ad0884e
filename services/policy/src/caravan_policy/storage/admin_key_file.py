"""The file that holds the first administrator's credential."""

import os
from pathlib import Path

from caravan_policy.domain.errors import StoreUnusableError


class HomeAdminKeyFile:
    """Implements AdminKeyFile by `<home>/admin.key`, mode 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> str | None:
        """See AdminKeyFile.

        Raises:
            StoreUnusableError: it is there, but cannot be read.
        """
        try:
            return self._path.read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreUnusableError(f"Cannot read {self._path}: {error.strerror}.") from error

    def write(self, credential: str) -> None:
        """See AdminKeyFile."""
        draft = self._path.with_name(f".{self._path.name}.new")
        try:
            draft.unlink(missing_ok=True)  # left behind by a crash, perhaps
            _write_durably(draft, f"{credential}\n")
            draft.replace(self._path)
            _sync_directory(self._path.parent)
        except OSError as error:
            raise StoreUnusableError(f"Cannot write {self._path}: {error.strerror}.") from error


def _write_durably(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
