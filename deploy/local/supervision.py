"""Keeps a handful of programs alive with supervisord, and talks to it.

Everything it needs is in one folder. It listens on a loopback port with a random password rather
than on a Unix socket, whose path may not be longer than 107 bytes.
"""

import http.client
import json
import os
import secrets
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from probes import LOOPBACK, pick_free_port

STOP_WAIT_S = 20
END_WAIT_S = 90.0
RPC_TIMEOUT_S = 10.0


class SupervisionError(Exception):
    """supervisord can't be started or doesn't do what it is told."""


class State(StrEnum):
    """Where a program is in its life, in supervisord's words."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    BACKOFF = "BACKOFF"
    STOPPING = "STOPPING"
    EXITED = "EXITED"
    FATAL = "FATAL"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Program:
    """A program to keep alive; started in the order given, stopped in the opposite one."""

    name: str
    command: tuple[str, ...]
    ops_port: int
    ports: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ProgramState:
    """What supervisord knows of a program."""

    name: str
    state: State
    pid: int | None
    description: str


class LoopbackTransport(xmlrpc.client.Transport):
    """XML-RPC over plain HTTP that gives up after a while."""

    def make_connection(self, host: Any) -> http.client.HTTPConnection:  # noqa: ANN401 as inherited
        """Returns a connection with a timeout."""
        connection = super().make_connection(host)
        connection.timeout = RPC_TIMEOUT_S
        return connection


class Supervisor:
    """supervisord with its configuration, password and logs below `home`."""

    def __init__(self, home: Path, programs: Sequence[Program]) -> None:
        self.programs = tuple(programs)
        self.logs = home / "logs"
        self._folder = home / "supervisor"
        self._access_file = self._folder / "access.json"

    def log_of(self, program: Program) -> Path:
        """Returns where a program's output goes."""
        return self.logs / f"{program.name}.log"

    def is_running(self) -> bool:
        """Says whether this very supervisord answers, not another on the same port."""
        return self._pid() is not None

    def start(self, environment: Mapping[str, str], *, cwd: Path) -> None:
        """Starts supervisord with all programs and returns when it answers.

        Raises:
            SupervisionError: it doesn't start; the text holds its own words.
        """
        if "%" in str(self._folder):  # supervisord expands what it has expanded once more
            raise SupervisionError(f"the path of the data directory has a % in it: {self._folder}")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        configuration = self._write_configuration()
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(configuration)]
        # It goes into the background by itself, after its port is open.
        result = subprocess.run(
            command,
            env=dict(environment),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise SupervisionError(f"supervisord ended at once:\n{result.stdout}{result.stderr}")
        deadline_s = time.monotonic() + RPC_TIMEOUT_S
        while not self.is_running():
            if time.monotonic() > deadline_s:
                raise SupervisionError(f"supervisord doesn't answer; see {self._folder}")
            time.sleep(0.05)

    def start_stopped(self) -> list[str]:
        """Starts the programs that have ended for good and returns their names."""
        ended = {State.STOPPED, State.EXITED, State.FATAL}
        names = [status.name for status in self.states() if status.state in ended]
        for name in names:
            self._call("startProcess", name, False)
        return names

    def states(self) -> list[ProgramState]:
        """Returns what became of each program, in starting order."""
        found = {info["name"]: info for info in self._call("getAllProcessInfo")}
        return [program_state(found[p.name]) for p in self.programs if p.name in found]

    def stop(self) -> bool:
        """Ends all programs, then supervisord; returns False when it wasn't running.

        Raises:
            SupervisionError: it is still there after a long while, and was killed.
        """
        pid = self._pid()
        if pid is None:
            return False
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        self._call("shutdown")
        _, alive = psutil.wait_procs(family, timeout=END_WAIT_S)
        self._access_file.unlink(missing_ok=True)
        if alive:
            kill(alive)
            raise SupervisionError(f"{len(alive)} processes did not end in time and were killed")
        return True

    def _pid(self) -> int | None:
        try:
            return int(self._call("getPID"))
        except SupervisionError:
            return None

    def _call(self, method: str, *arguments: object) -> Any:  # noqa: ANN401 XML-RPC has no types
        try:
            access = json.loads(self._access_file.read_text())
            address = f"http://caravan:{access['password']}@{LOOPBACK}:{access['port']}/RPC2"
            with xmlrpc.client.ServerProxy(address, transport=LoopbackTransport()) as server:
                return getattr(server.supervisor, method)(*arguments)
        except (OSError, ValueError, KeyError) as error:
            raise SupervisionError("supervisord doesn't answer") from error
        except (http.client.HTTPException, xmlrpc.client.Error) as error:
            # The text of a protocol error names the address with the password: leave it out.
            raise SupervisionError(f"supervisord refuses {method}") from error

    def _write_configuration(self) -> Path:
        access = {"port": pick_free_port(), "password": secrets.token_urlsafe(24)}
        write_private(self._access_file, json.dumps(access))
        path = self._folder / "supervisord.conf"
        header = HEADER.format(**access, host=LOOPBACK)
        sections = (section(number, program) for number, program in enumerate(self.programs))
        write_private(path, header + "".join(sections))
        return path


HEADER = """\
; Written at each start.
[supervisord]
logfile=%(here)s/supervisord.log
logfile_maxbytes=1MB
logfile_backups=1
pidfile=%(here)s/supervisord.pid
umask=077

[inet_http_server]
port={host}:{port}
username=caravan
password={password}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""

SECTION = """
[program:{name}]
command={command}
priority={priority}
autostart=true
autorestart=true
startsecs=1
startretries=3
stopsignal=TERM
stopwaitsecs={stop_wait_s}
redirect_stderr=true
stdout_logfile=%(here)s/../logs/{name}.log
stdout_logfile_maxbytes=10MB
stdout_logfile_backups=3
"""


def section(number: int, program: Program) -> str:
    """Returns the part of the configuration for one program."""
    return SECTION.format(
        name=program.name,
        command=shlex.join(program.command).replace("%", "%%"),
        priority=100 + number,
        stop_wait_s=STOP_WAIT_S,
    )


def program_state(info: Mapping[str, Any]) -> ProgramState:
    """Returns the typed form of supervisord's answer."""
    return ProgramState(
        name=info["name"],
        state=State(info["statename"]),
        pid=info["pid"] or None,
        description=info["description"] or info["spawnerr"],
    )


def write_private(path: Path, text: str) -> None:
    """Writes a file that only this user can read, whatever was there before."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def kill(processes: Sequence[psutil.Process]) -> None:
    """Ends processes at once and waits until they are gone."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=10)
