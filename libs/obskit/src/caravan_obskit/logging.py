"""Structured logs: one JSON object a line on stderr, credentials redacted.

Prompts and generated text are never logged: no pattern can find them, so no caller may pass them.
"""

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import TextIO

from caravan_obskit.redaction import MASK, is_secret_name, redact, redacted

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_log = logging.getLogger(__name__)


class JsonFormatter(logging.Formatter):
    """Writes a record as one line: the fixed fields, then whatever the caller gave as `extra`."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Never raises for odd values: what JSON doesn't know is written as text."""
        moment = datetime.fromtimestamp(record.created, UTC)
        fields: dict[str, object] = {
            "timestamp": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if record.exc_info:
            fields["exception"] = redact(self.formatException(record.exc_info))
        if record.stack_info:
            fields["stack"] = redact(self.formatStack(record.stack_info))
        for name, value in vars(record).items():
            if name not in _STANDARD and name not in fields:
                fields[name] = MASK if is_secret_name(name) else redacted(value)
        return json.dumps(fields, ensure_ascii=False)


def configure_logging(service: str, *, level: str = "INFO", stream: TextIO | None = None) -> None:
    """Sends all logs of the process to `stream` as JSON lines; call it once, first of all.

    Also takes what would otherwise be printed bare: warnings, and exceptions that end a thread or
    the process.

    Args:
        service: value of the field of that name on each line.
        level: name of the lowest level that is written.
        stream: stderr by default.

    Raises:
        ValueError: for an unknown level.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    root = logging.getLogger()
    root.setLevel(level.upper())
    for present in root.handlers[:]:
        root.removeHandler(present)
    root.addHandler(handler)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_exception
    threading.excepthook = _log_thread_exception


def _log_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        _log.critical("unexpected exception", exc_info=(kind, error, trace))


def _log_thread_exception(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and not isinstance(arguments.exc_value, SystemExit):
        name = arguments.thread.name if arguments.thread else "unknown"
        _log.critical(
            "unexpected exception in a thread",
            exc_info=arguments.exc_value,
            extra={"thread_name": name},
        )
