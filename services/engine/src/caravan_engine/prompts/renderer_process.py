"""The template renderer's process, as its user sees it: start, one exchange at a time, kill."""

import asyncio
import contextlib
import json
import os
import struct
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from typing import Any

_HEADER = struct.Struct(">I")
_KEPT_VARIABLES = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "TZ", "HOME")

RENDERER_COMMAND = (sys.executable, "-P", "-m", "caravan_engine.template_renderer")


class RendererDiedError(Exception):
    """The process is gone, or said something that is no answer."""


class RendererProcess:
    """A running renderer. It ends by itself when its standard input closes."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: Sequence[str] = RENDERER_COMMAND) -> "RendererProcess":
        """Starts the program.

        Its standard error goes nowhere: what a template makes Python print may hold a prompt.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env=_environment(os.environ),
        )
        return cls(process)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process runs, as far as is known."""
        return self._process.returncode is None

    async def exchange(
        self, frame: Mapping[str, Any], *, answer_limit_bytes: int
    ) -> dict[str, Any]:
        """Sends a frame and returns the answer. After a failure or a cancellation: `kill`.

        Raises:
            RendererDiedError: there is no sound answer.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise RendererDiedError("without pipes")
        body = json.dumps(frame).encode()
        try:
            stdin.write(_HEADER.pack(len(body)) + body)
            await stdin.drain()
            size = _HEADER.unpack(await stdout.readexactly(_HEADER.size))[0]
            if size > answer_limit_bytes:
                raise RendererDiedError("its answer is too long")
            answer = json.loads(await stdout.readexactly(size))
        except (OSError, asyncio.IncompleteReadError, ValueError) as error:
            raise RendererDiedError(type(error).__name__) from error
        if not isinstance(answer, dict):
            raise RendererDiedError("its answer is no object")
        return answer

    async def kill(self) -> None:
        """Ends the process at once and reaps it."""
        with contextlib.suppress(ProcessLookupError):
            if self._process.returncode is None:
                self._process.kill()
        await self._process.wait()


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What Python needs to start, and no secrets."""
    kept = {name: environment[name] for name in _KEPT_VARIABLES if name in environment}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUTF8": "1"}
