"""The worker's end of the pipes to its host: what it reads, says, and how it ends with it."""

import os
import sys
import threading
from collections.abc import Callable

from caravan_engine.control.events import ControlEvent, Failed, Progress, encode
from caravan_rpckit.errors import CaravanError, Reason

_MAX_SETTINGS_BYTES = 1024 * 1024
_MIN_PROGRESS_STEP = 0.01
_STDIN, _STDOUT, _STDERR = 0, 1, 2


class HostPipe:
    """Says control events to the host. Usable from any thread."""

    def __init__(self, fd: int, on_host_gone: Callable[[], None]) -> None:
        self._fd = fd
        self._on_host_gone = on_host_gone
        self._lock = threading.Lock()
        self._last: Progress | None = None

    @classmethod
    def over_stdout(cls, on_host_gone: Callable[[], None]) -> "HostPipe":
        """Takes standard output for the host alone; what others print goes to standard error.

        Native libraries print when they like, and would break the protocol.
        """
        fd = os.dup(_STDOUT)
        os.dup2(_STDERR, _STDOUT)
        return cls(fd, on_host_gone)

    def say(self, event: ControlEvent) -> None:
        """Sends an event; progress that moved less than a hundredth is left out."""
        with self._lock:
            if isinstance(event, Progress):
                if self._is_dull(event):
                    return
                self._last = event
            try:
                os.write(self._fd, encode(event))
            except OSError:
                self._on_host_gone()

    def say_failed(self, error: BaseException) -> None:
        """Tells why the worker ends; of unexpected errors only the kind."""
        if isinstance(error, CaravanError):
            message, metadata = error.message[:2000], dict(error.metadata)
            self.say(Failed(reason=error.reason, message=message, metadata=metadata))
        else:
            message = f"of an unexpected {type(error).__name__}; see the engine's log"
            self.say(Failed(reason=Reason.INTERNAL, message=message))

    def _is_dull(self, event: Progress) -> bool:
        last = self._last
        if last is None or last.phase is not event.phase or event.fraction in (0.0, 1.0):
            return False
        return event.fraction - last.fraction < _MIN_PROGRESS_STEP


def read_settings_line() -> bytes:
    """Reads the first line of standard input byte by byte, leaving the rest unread.

    Raises:
        ValueError: it ends before a newline, or is far too long.
    """
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(_STDIN, 1)
        if not byte or len(line) >= _MAX_SETTINGS_BYTES:
            raise ValueError("there is no settings line on standard input")
        line += byte
    return bytes(line)


def watch_stdin(on_end: Callable[[], None]) -> None:
    """Calls `on_end` in a thread of its own when standard input ends, whatever else goes on.

    The kernel closes the host's end when the host dies, however it dies.
    """

    def wait() -> None:
        while os.read(_STDIN, 4096):
            pass
        on_end()

    threading.Thread(target=wait, name="host-watch", daemon=True).start()


def leave(status: int) -> None:
    """Ends the process now: no destructors, no waiting for threads inside native code."""
    try:
        sys.stderr.flush()
    finally:  # whoever would have read it may be gone
        os._exit(status)
