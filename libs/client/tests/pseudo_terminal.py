"""A terminal whose person is the test."""

import fcntl
import os
import pty
import re
import select
import struct
import termios
import time

PATIENCE_S = 30


# Becomes the command in a session of its own, so that Ctrl-C at its terminal reaches it.
TAKE_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "caravan_client", *sys.argv[1:]])
"""


_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """The person's side of a pseudo terminal; shows text without its escape sequences."""

    def __init__(self):
        self._person, self.program = pty.openpty()
        self._written = b""
        self._matched = 0

    def expect(self, pattern: str, patience_s: float = PATIENCE_S) -> str:
        """Reads until `pattern` shows up after what was matched before; returns that part."""
        deadline = time.monotonic() + patience_s
        while not (match := re.search(pattern, self.unmatched, re.DOTALL)):
            ready, _, _ = select.select([self._person], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"no {pattern!r} in {self.unmatched!r}")
            self._written += os.read(self._person, 65536)
        self._matched += match.end()
        return match.string[: match.end()]

    @property
    def unmatched(self) -> str:
        """What was shown after the last match."""
        return _ESCAPES.sub("", self._written.decode(errors="replace"))[self._matched :]

    @property
    def controls(self) -> list[str]:
        """The escape sequences among what was written."""
        return _ESCAPES.findall(self._written.decode(errors="replace"))

    def type(self, text: str | bytes) -> None:
        os.write(self._person, text.encode() if isinstance(text, str) else text)

    def paste(self, text: str) -> None:
        """As a terminal does that tells pasting from typing."""
        self.type(f"\x1b[200~{text}\x1b[201~")

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.program, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def close(self) -> None:
        os.close(self._person)
        os.close(self.program)
