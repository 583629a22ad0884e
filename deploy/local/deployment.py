"""A set of programs on this machine: starts them together, waits for them, ends them all.

Refuses to start beside something that holds its ports or its data directory.
"""

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from probes import ask_readiness, describe_owner, is_free
from supervision import Program, State, Supervisor, kill

START_TIMEOUT_S = 120.0
POLL_INTERVAL_S = 0.1
REPORT_INTERVAL_S = 5.0
TAIL_LINES = 20
TAIL_BYTES = 16_384
END_WAIT_S = 10.0


class DeploymentError(Exception):
    """Something that the user has to mend; its text says what."""


class Deployment:
    """The programs of one data directory."""

    def __init__(self, root: Path, home: Path, programs: Sequence[Program]) -> None:
        self.home = home
        self.programs = tuple(programs)
        self.supervisor = Supervisor(home, programs)
        self._root = root
        self._model_file = home / "supervisor" / "model"

    def refuse_conflicts(self) -> None:
        """Finds what would be in the way of a start.

        Raises:
            DeploymentError: leftovers of an earlier run, or a taken port.
        """
        self._refuse_leftovers()
        self._refuse_taken_ports()

    def start(self, environment: Mapping[str, str], *, model: str) -> None:
        """Starts all programs below a new supervisord.

        Raises:
            SupervisionError: supervisord doesn't start.
        """
        print(f"starting {', '.join(program.name for program in self.programs)}", flush=True)
        self.supervisor.start(environment, cwd=self._root)
        self._model_file.write_text(model)

    def model(self) -> str:
        """Returns which model the running programs were started with."""
        return self._model_file.read_text()

    def wait_until_ready(self, timeout_s: float | None = None) -> None:
        """Returns when every program says that it is ready, with a line for each.

        Raises:
            DeploymentError: one has ended for good, or the time is over.
        """
        bound_s = timeout_s or float(os.environ.get("CARAVAN_START_TIMEOUT_S", START_TIMEOUT_S))
        started_s = reported_s = time.monotonic()
        waiting = list(self.programs)
        while waiting:
            elapsed_s = time.monotonic() - started_s
            for program in [one for one in waiting if ask_readiness(one.ops_port).ready]:
                print(f"  {program.name:<10} ready after {elapsed_s:.1f} s", flush=True)
                waiting.remove(program)
            self._refuse_failed(waiting)
            if waiting and elapsed_s > bound_s:
                raise DeploymentError(
                    self._describe(waiting[0], f"isn't ready after {bound_s:g} s")
                )
            if waiting and time.monotonic() - reported_s > REPORT_INTERVAL_S:
                reported_s = time.monotonic()
                report_waiting(waiting)
            time.sleep(POLL_INTERVAL_S if waiting else 0)

    def stop(self) -> None:
        """Ends everything, also what a supervisord that was killed has left behind."""
        try:
            stopped = self.supervisor.stop()
        finally:
            left = self.leftovers()
            end(left)
        if stopped:
            print("stopped")
        elif left:
            print(f"ended {len(left)} processes of an earlier run")
        else:
            print("Caravan isn't running")

    def leftovers(self) -> list[psutil.Process]:
        """Returns the processes that supervisord started for this data directory."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                variables = process.environ()
                if "SUPERVISOR_PROCESS_NAME" in variables and self._owns(variables):
                    found.append(process)
        return found

    def _owns(self, variables: Mapping[str, str]) -> bool:
        return variables.get("CARAVAN_HOME") == str(self.home)

    def _refuse_leftovers(self) -> None:
        left = self.leftovers()
        if left:
            pids = ", ".join(str(process.pid) for process in left)
            raise DeploymentError(
                f"an earlier run left processes behind ({pids}); `make stop` ends them"
            )

    def _refuse_taken_ports(self) -> None:
        faults = [
            f"port {port}, which {program.name} needs, is taken by {describe_owner(port)}"
            for program in self.programs
            for port in (*program.ports, program.ops_port)
            if not is_free(port)
        ]
        if faults:
            raise DeploymentError("\n".join([*faults, "Nothing was started."]))

    def _refuse_failed(self, waiting: Sequence[Program]) -> None:
        failed = {state.name for state in self.supervisor.states() if state.state is State.FATAL}
        for program in waiting:
            if program.name in failed:
                raise DeploymentError(self._describe(program, "ends as soon as it is started"))

    def _describe(self, program: Program, fault: str) -> str:
        path = self.supervisor.log_of(program)
        lines = last_lines(path)
        return "\n".join(
            [
                f"{program.name} {fault}. The end of {path}:",
                *(f"  {line}" for line in lines or ["(nothing)"]),
                "What runs goes on running: `make status`, `make logs`, `make stop`.",
            ]
        )


def report_waiting(waiting: Sequence[Program]) -> None:
    """Prints what the programs that aren't ready are doing."""
    for program in waiting:
        detail = ask_readiness(program.ops_port).detail.partition("\n")[0][:60]
        if detail:
            print(f"  {program.name:<10} {detail}", flush=True)


def last_lines(path: Path) -> list[str]:
    """Returns the end of a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
    except FileNotFoundError:
        return []


def end(processes: Sequence[psutil.Process]) -> None:
    """Asks processes to end, and makes them."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=END_WAIT_S)
    kill(alive)
