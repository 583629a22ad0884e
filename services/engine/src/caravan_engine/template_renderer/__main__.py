"""Renders on request until its standard input closes.

Frames go both ways: four bytes of length, then JSON. The first frame is the template and its
limits, answered with `{}` or an error. Each later one is `{"conversations": [[message, ...], ...]}`
and is answered with `{"texts": [...]}` or `{"error": kind, "message": text}`. Nothing is written
to standard error.
"""

import contextlib
import json
import os
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

from caravan_engine.template_renderer.rendering import (
    ChatTemplate,
    OutputTooLongError,
    TemplateError,
    TemplateRefusedError,
)

_HEADER = struct.Struct(">I")


def main() -> None:
    """Serves the pipe."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    settings = _receive(source)
    if settings is None:
        return
    _limit_resources(int(settings["memory_limit_bytes"]))
    time_limit_s = float(settings["time_limit_s"])
    with _time_limit(time_limit_s):
        template, answer = _compile(settings)
    _send(sink, answer)
    while template is not None and (request := _receive(source)) is not None:
        with _time_limit(time_limit_s):
            answer = _render(template, request)
        _send(sink, answer)


def _limit_resources(memory_limit_bytes: int) -> None:
    for kind, limit in (
        (resource.RLIMIT_AS, memory_limit_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))


@contextlib.contextmanager
def _time_limit(limit_s: float) -> Iterator[None]:
    """Over the limit the process is ended by SIGALRM, whatever Python is doing."""
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _compile(settings: dict[str, Any]) -> tuple[ChatTemplate | None, dict[str, Any]]:
    try:
        template = ChatTemplate(
            settings["template"], settings["variables"], int(settings["output_limit"])
        )
    except Exception as error:  # noqa: BLE001 (a template is foreign code and may raise anything)
        return None, _fault(error)
    return template, {}


def _render(template: ChatTemplate, request: dict[str, Any]) -> dict[str, Any]:
    try:
        texts = [template.render(messages) for messages in request["conversations"]]
        for text in texts:
            text.encode()  # half of a surrogate pair can't be tokenized
    except Exception as error:  # noqa: BLE001 (as above)
        return _fault(error)
    return {"texts": texts}


def _fault(error: Exception) -> dict[str, Any]:
    if isinstance(error, TemplateRefusedError):
        return {"error": "refused", "message": str(error)[:1000]}
    if isinstance(error, OutputTooLongError):
        return {"error": "too_long", "message": ""}
    if isinstance(error, MemoryError):
        return {"error": "memory", "message": ""}
    kind = "template" if isinstance(error, TemplateError) else "failed"
    return {"error": kind, "message": type(error).__name__}


def _receive(source: BinaryIO) -> dict[str, Any] | None:
    header = source.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    body = source.read(_HEADER.unpack(header)[0])
    request: dict[str, Any] = json.loads(body)
    return request


def _send(sink: BinaryIO, answer: dict[str, Any]) -> None:
    body = json.dumps(answer, ensure_ascii=False).encode()
    sink.write(_HEADER.pack(len(body)) + body)
    sink.flush()


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, MemoryError):
        os._exit(1)
