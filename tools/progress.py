"""Runs a long command with its output in a log and its progress on the terminal."""

import re
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

TAIL_LINES = 30
QUIET_INTERVAL_S = 10.0
LINE_WIDTH = 76


class CommandError(Exception):
    """A command failed; the text holds its last lines."""


def say(text: str) -> None:
    """Prints a line at once, also into a pipe."""
    print(text, flush=True)


def watch(command: list[str], *, log: Path, environment: dict[str, str]) -> None:
    """Runs `command`, appends its output to `log` and shows how far it is.

    Raises:
        CommandError: it ended with another status than 0.
    """
    last: deque[str] = deque(maxlen=TAIL_LINES)
    ticker = Ticker()
    with (
        log.open("a") as file,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        for line in process.stdout or ():
            file.write(line)
            last.append(line.rstrip())
            ticker.show(line)
        status = process.wait()
    ticker.end()
    if status != 0:
        raise CommandError("\n".join([*last, f"failed with status {status}"]))


@dataclass(slots=True)
class Ticker:
    """Shows the latest state: in place on a terminal, now and then elsewhere."""

    live: bool = field(default_factory=sys.stdout.isatty)
    started_s: float = field(default_factory=time.monotonic)
    shown_s: float = field(default_factory=time.monotonic)
    dirty: bool = False

    def show(self, line: str) -> None:
        """Shows what `line` says, unless the last state is too fresh."""
        now_s = time.monotonic()
        if line.isspace():
            return
        if now_s - self.shown_s < (0.1 if self.live else QUIET_INTERVAL_S):
            return
        self.shown_s = now_s
        text = f"    {now_s - self.started_s:4.0f} s  {summary(line)}"[:LINE_WIDTH]
        if self.live:
            print(f"\r{text:<{LINE_WIDTH}}", end="", flush=True)
            self.dirty = True
        else:
            say(text.rstrip())

    def end(self) -> None:
        """Leaves the terminal with an empty line."""
        if self.dirty:
            print("\r" + " " * LINE_WIDTH + "\r", end="", flush=True)


def summary(line: str) -> str:
    """Shortens a line of a compiler run to its place in the whole."""
    step = re.search(r"\[(\d+)/(\d+)\] ", line)
    if step is None:
        return line.strip()
    share = f"{step[1]}/{step[2]} ({100 * int(step[1]) // int(step[2])} %)"
    source = re.search(r"([\w.-]+\.(?:cpp|cc|cu|c))\s*$", line)
    return f"compiled {share} {source[1]}" if source else f"built {share}"
