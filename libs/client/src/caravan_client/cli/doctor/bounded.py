"""Runs probes side by side, each for a bounded time, whatever they wait for.

A thread pool would wait for a stuck probe (a dead network file system, for one) when the program
ends; threads marked as daemons do not hold it up.
"""

import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PROBE_S = 2.0
PROCESS_S = 6.0  # an interpreter that imports a service takes a while on a busy machine


def gather(probes: Mapping[str, Callable[[], T]], limit_s: float = PROBE_S) -> dict[str, T]:
    """Runs all probes at once; what is not there after the limit is left out.

    Raises:
        Exception: what a probe has raised; expected failures are for the probe to catch.
    """
    results: dict[str, T] = {}
    faults: list[Exception] = []

    def run(name: str, probe: Callable[[], T]) -> None:
        try:
            results[name] = probe()
        except Exception as error:  # noqa: BLE001 (raised below, in the thread that asked)
            faults.append(error)

    deadline = time.monotonic() + limit_s
    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in probes.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if faults:
        raise faults[0]
    return dict(results)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended."""

    status: int
    stdout: str
    stderr: str


def run_program(
    command: Sequence[str | Path], *, cwd: Path | None = None, limit_s: float = PROCESS_S
) -> Ended | None:
    """Runs a program without input; None when it cannot be started or takes too long."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return Ended(done.returncode, done.stdout, done.stderr)
