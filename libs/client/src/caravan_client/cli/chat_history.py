"""Keeps what was typed in a conversation, one JSON string a line, for this user alone.

Not ~/.python_history, which every program that reads lines with Python writes into.
"""

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

MOST_ENTRIES = 1000

_SLACK = 2  # the file is cut when it has twice as many


def history_path(environment: Mapping[str, str] = os.environ) -> Path:
    """`CARAVAN_HOME/chat_history` where that is set and ours to write, else the user's own place.

    That is `caravan/chat_history` in XDG_STATE_HOME, ~/.local/state by default.
    """
    home = environment.get("CARAVAN_HOME")
    if home and os.access(home, os.W_OK | os.X_OK):
        return Path(home) / "chat_history"
    state = environment.get("XDG_STATE_HOME")
    folder = Path(state) if state else Path.home() / ".local" / "state"
    return folder / "caravan" / "chat_history"


class ChatHistory:
    """A history file. Several conversations may add to it at once.

    It is a convenience: where the file cannot be read or written there is no history, and the
    conversation goes on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> list[str]:
        """What was typed, oldest first; lines that make no sense are passed over."""
        with contextlib.suppress(OSError):
            self._make_private()
            entries = _parse(self.path.read_bytes())
            if len(entries) > MOST_ENTRIES * _SLACK:
                self._replace(entries[-MOST_ENTRIES:])
            return entries[-MOST_ENTRIES:]
        return []

    def add(self, text: str) -> None:
        """Appends an entry, in one write."""
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
            file = os.open(self.path, flags, 0o600)
            try:
                os.write(file, _line(text))
            finally:
                os.close(file)

    def _make_private(self) -> None:
        mode = self.path.stat().st_mode
        if stat.S_IMODE(mode) & 0o077:
            self.path.chmod(0o600)

    def _replace(self, entries: list[str]) -> None:
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=".chat_history.")
        partial = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines(map(_line, entries))
            partial.replace(self.path)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def _line(text: str) -> bytes:
    return json.dumps(text).encode() + b"\n"  # only ASCII, so that any text can be written


def _parse(data: bytes) -> list[str]:
    entries = []
    for line in data.splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, str):
                entries.append(entry)
    return entries
