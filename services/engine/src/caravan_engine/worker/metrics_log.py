"""Writes a worker's numbers, one JSON object a line, from a thread that nobody waits for."""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan_engine.config import MetricsSettings
from caravan_engine.machine import memory_pressure
from caravan_engine.worker.metrics_line import metrics_of

_log = logging.getLogger(__name__)

PREFIX = "[METRICS] "
_COMPLAINT_INTERVAL_S = 60.0


class MetricsLog:
    """Measures and writes at an interval, and soon after each call of `evicted`.

    Args:
        measure: Returns the numbers; called on the thread of this log.
        write: Takes a line; whatever OSError it raises costs that line and, once a minute, a
            warning.
        interval_s: Seconds between two lines; 0 writes after evictions only.
        is_pretty: Whether an object takes many lines instead of one.
    """

    def __init__(
        self,
        measure: Callable[[], Mapping[str, object]],
        write: Callable[[str], None],
        *,
        interval_s: float,
        is_pretty: bool = False,
    ) -> None:
        self._measure = measure
        self._write = write
        self._interval_s = interval_s or None
        self._indent = 2 if is_pretty else None
        self._woken = threading.Event()
        self._is_closing = False
        self._complained_at: float | None = None
        self._thread = threading.Thread(target=self._run, name="metrics-log", daemon=True)

    def start(self) -> None:
        """Begins; the first line comes after an interval."""
        self._thread.start()

    def evicted(self) -> None:
        """Pages had to leave; costs the caller next to nothing.

        Evictions that come while a line is being written share the next one, whose count has all.
        """
        self._woken.set()

    def close(self) -> None:
        """Writes a last line and ends the thread."""
        self._is_closing = True
        self._woken.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_closing:
            self._woken.wait(self._interval_s)
            self._woken.clear()
            self._write_numbers()

    def _write_numbers(self) -> None:
        try:
            self._write(json.dumps(self._measure(), indent=self._indent))
        except OSError as error:
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        now = time.monotonic()
        if self._complained_at is None or now - self._complained_at >= _COMPLAINT_INTERVAL_S:
            self._complained_at = now
            extra = {"detail": error.strerror or type(error).__name__}
            _log.warning("metrics can't be written", extra=extra)


def open_metrics_log(
    settings: MetricsSettings, file: Path | None, stats: Callable[[], stats_pb.WorkerStats]
) -> MetricsLog | None:
    """Returns the log that the settings ask for, if any; not yet started."""

    def measure() -> Mapping[str, object]:
        return metrics_of(stats(), at=datetime.now(UTC), memory_pressure=memory_pressure())

    if file is not None:
        is_pretty, write = settings.pretty, append_to(file)
    elif settings.log:
        is_pretty, write = False, write_to_stderr  # the host may make it so
    else:
        return None
    return MetricsLog(measure, write, interval_s=settings.interval_s, is_pretty=is_pretty)


def append_to(path: Path) -> Callable[[str], None]:
    """Returns what appends lines to a file, each whole, however many processes do so.

    The file is opened for each line, so that it may be moved away at any time.
    """

    def write(text: str) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        fd = os.open(path, flags, 0o600)
        try:
            os.write(fd, text.encode() + b"\n")
        finally:
            os.close(fd)

    return write


def write_to_stderr(text: str) -> None:
    """Writes a line behind `[METRICS] `, whole."""
    os.write(sys.stderr.fileno(), f"{PREFIX}{text}\n".encode())
