"""Forwards what workers write to their standard error, and keeps prompts out of the log.

A worker's own log lines are JSON objects and pass, as do its numbers behind `[METRICS] `.
Everything else comes from native code, which may print a user's text: before the worker is ready no
user's text can be in it and it passes as a record; afterwards only lines that name a failed check
or a fatal error do, the rest is counted.
"""

import json
import logging
import re
from collections.abc import Callable

_log = logging.getLogger("caravan_engine.worker")

MAX_LINE_BYTES = 16 * 1024
_MAX_SHOWN_CHARS = 500
_METRICS = "[METRICS] "
_FATAL = re.compile(
    r"^(\S+:\d+: )?(GGML_ASSERT\([^\"]*\) failed|fatal error)$"
    r"|^Fatal Python error: [\w .:-]+$"
    r"|^terminate called (after throwing an instance of '[\w:]+'|without an active exception)$"
)


class WorkerLog:
    """The log of one worker process. Belongs to the event loop."""

    def __init__(
        self, worker: str, sink: Callable[[str], None], *, prettifies_metrics: bool = False
    ) -> None:
        """Prepares the log.

        Args:
            worker: whom to name in records, such as `bundled#0`.
            sink: takes a structured line, without newline, as the worker wrote it.
            prettifies_metrics: whether numbers are to take a line each.
        """
        self._prettifies_metrics = prettifies_metrics
        self._worker = worker
        self._sink = sink
        self._num_withheld = 0

    def feed(self, line: bytes, *, ready: bool) -> None:
        """Takes one line; `ready` says whether requests may have reached the worker."""
        text = line.decode("utf-8", "replace").strip()
        if not text:
            return
        if _is_record(text):
            self._sink(text)
        elif text.startswith(_METRICS) and _is_record(text.removeprefix(_METRICS)):
            self._sink(self._metrics(text))
        elif not ready or _FATAL.match(text):
            extra = {"worker": self._worker, "output": text[:_MAX_SHOWN_CHARS]}
            _log.warning("worker wrote an unstructured line", extra=extra)
        else:
            self._num_withheld += 1

    def _metrics(self, text: str) -> str:
        if not self._prettifies_metrics:
            return text
        return _METRICS + json.dumps(json.loads(text.removeprefix(_METRICS)), indent=2)

    def close(self) -> None:
        """Says how many lines were withheld, if any were."""
        if self._num_withheld:
            extra = {"worker": self._worker, "lines": self._num_withheld}
            _log.warning("withheld unstructured lines of a worker", extra=extra)
            self._num_withheld = 0


def _is_record(text: str) -> bool:
    if not text.startswith("{"):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
