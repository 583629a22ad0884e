"""Remembers digests of model files, so that a restart needs not read gigabytes again.

An entry counts only for the same path, size and time of change. The file is a cache: it may be
deleted at any time, and what is wrong in it is ignored.
"""

import json
import logging
import re
from pathlib import Path

from caravan_engine.host.registry import ModelFile

_log = logging.getLogger(__name__)
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")
_MAX_ENTRIES = 1000


class DigestCache:
    """A JSON file of digests, written whole and atomically. One process owns it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digests = _read(path)

    def get(self, file: ModelFile) -> str | None:
        """The digest of `file` as it is now, if it was read before."""
        return self._digests.get(_key(file))

    def put(self, file: ModelFile, digest: str) -> None:
        """Remembers `digest` and forgets what the same path had before; a full disk is no error."""
        prefix = f"{file.path}\n"
        kept = [item for item in self._digests.items() if not item[0].startswith(prefix)]
        self._digests = dict([*kept[-_MAX_ENTRIES + 1 :], (_key(file), digest)])
        partial = self._path.with_name(self._path.name + ".partial")
        try:
            partial.write_text(json.dumps(self._digests, indent=1))
            partial.replace(self._path)
        except OSError as error:
            _log.warning("cannot store digests of models", extra={"error": error.strerror})


def _key(file: ModelFile) -> str:
    return f"{file.path}\n{file.size_bytes}\n{file.modified_ns}"


def _read(path: Path) -> dict[str, str]:
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(stored, dict):
        return {}
    return {
        key: digest
        for key, digest in stored.items()
        if isinstance(digest, str) and _SHA256_HEX.fullmatch(digest)
    }
