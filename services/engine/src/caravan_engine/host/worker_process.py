"""One worker process from the host's side: started by exec, held by its standard input."""

import asyncio
import contextlib
import logging
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TypeVar

from caravan_engine.control.events import (
    MAX_LINE_BYTES,
    ControlError,
    ControlEvent,
    Ready,
    decode,
)
from caravan_engine.host.lines import read_lines
from caravan_engine.host.worker_log import MAX_LINE_BYTES as MAX_LOG_LINE_BYTES
from caravan_engine.host.worker_log import WorkerLog

_log = logging.getLogger(__name__)

_LOG_TAIL_S = 1.0

StreamT = TypeVar("StreamT", asyncio.StreamReader, asyncio.StreamWriter)


class WorkerProcess:
    """A running worker program.

    The program ends when its standard input closes, which also happens when the host is killed.
    Whoever starts one awaits `end` at last, in every case: it reaps the process.
    """

    def __init__(self, process: Process, log: WorkerLog) -> None:
        self._process = process
        self._log = log
        self._ready = False
        self._log_task = asyncio.create_task(self._forward_log(), name=f"worker-log-{self.pid}")

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        settings_line: bytes,
        *,
        log: WorkerLog,
        environment: Mapping[str, str],
    ) -> "WorkerProcess":
        """Starts `command` and writes `settings_line` to its standard input, which stays open.

        Raises:
            OSError: the program cannot be started.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=dict(environment),
            # A Ctrl-C in the terminal is for the host, which then drains its workers.
            start_new_session=True,
        )
        # Not drained: the pipe holds a settings line, and a program that died at once is found at
        # the end of its output.
        _present(process.stdin).write(settings_line)
        return cls(process, log)

    @property
    def pid(self) -> int:
        """Process id; stays known after the end."""
        return self._process.pid

    async def events(self) -> AsyncIterator[ControlEvent]:
        """Yields what the worker says, in order, until its output ends. Iterate once."""
        async for line in read_lines(_present(self._process.stdout), limit_bytes=MAX_LINE_BYTES):
            try:
                event = decode(line)
            except ControlError:
                _log.warning("worker broke the control protocol", extra={"pid": self.pid})
                continue
            self._ready = self._ready or isinstance(event, Ready)
            yield event

    async def end(self, grace_s: float) -> str:
        """Asks it to end, waits, kills what is left, and reaps; says how it ended.

        Asked by a signal, so that it still says goodbye to its clients: closing its standard input
        would end it at once.
        """
        # Not Popen's terminate(), which may reap the process before asyncio does.
        with contextlib.suppress(ProcessLookupError):
            if self._process.returncode is None:
                os.kill(self._process.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_s):
                await self._process.wait()
        except TimeoutError:
            _log.warning("killing a worker that does not end", extra={"pid": self.pid})
        finally:
            await asyncio.shield(self._reap())
        return describe_exit(self._process.returncode or 0)

    async def _reap(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._process.returncode is None:
                self._process.kill()
        await self._process.wait()
        # A child of the worker may hold the pipe open; the log is not worth waiting for it.
        await asyncio.wait({self._log_task}, timeout=_LOG_TAIL_S)
        self._log_task.cancel()
        self._log.close()

    async def _forward_log(self) -> None:
        stderr = _present(self._process.stderr)
        async for line in read_lines(stderr, limit_bytes=MAX_LOG_LINE_BYTES):
            self._log.feed(line, ready=self._ready)


def describe_exit(status: int) -> str:
    """Says in words how a process ended; negative numbers are signals."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = " (killed from outside, perhaps for want of memory)" if name == "SIGKILL" else ""
    return f"ended by {name}{hint}"


def _present(stream: StreamT | None) -> StreamT:
    if stream is None:
        raise RuntimeError("a worker is always started with pipes")
    return stream
