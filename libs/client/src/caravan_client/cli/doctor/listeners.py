"""Finds out which process listens on a port, from /proc; elsewhere than on Linux nobody is found.

Of a process only its program's name, its Caravan service and its data directory are kept: its
arguments and its environment may hold secrets.
"""

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from caravan_client.cli.doctor.facts import SERVICES, Owner

_PROC = Path("/proc")
_LISTENING = "0A"


def find_owners(ports: Collection[int]) -> dict[int, Owner]:
    """Who listens on each of these ports, of those on which somebody does."""
    inodes = dict(_listening_inodes(ports))
    if not inodes:
        return {}
    processes = dict(_processes_of(frozenset(inodes.values())))
    return {
        port: _describe(processes[inode]) if inode in processes else Owner()
        for port, inode in inodes.items()
    }


def program_name(arguments: list[str]) -> str:
    """A command line without what could be a secret: the program, and its module or script."""
    program = Path(arguments[0]).name if arguments else "?"
    if not program.startswith("python") or len(arguments) < 2:
        return program
    if arguments[1] == "-m" and len(arguments) > 2:
        return f"{program} -m {arguments[2]}"
    return program if arguments[1].startswith("-") else f"{program} {Path(arguments[1]).name}"


def service_of(arguments: list[str]) -> str | None:
    """The Caravan service that a command line starts."""
    modules = {f"caravan_{name}": name for name in SERVICES}
    with contextlib.suppress(ValueError, IndexError):
        return modules.get(arguments[arguments.index("-m") + 1])
    return None


def _listening_inodes(ports: Collection[int]) -> Iterator[tuple[int, str]]:
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] == _LISTENING and port in ports:
                yield port, fields[9]


def _processes_of(inodes: frozenset[str]) -> Iterator[tuple[str, Path]]:
    """Which process holds which of these sockets; those of other users cannot be looked into."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    for process in _PROC.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            for entry in (process / "fd").iterdir():
                with contextlib.suppress(OSError):
                    if (inode := wanted.get(str(entry.readlink()))) is not None:
                        yield inode, process


def _describe(process: Path) -> Owner:
    with contextlib.suppress(OSError):
        arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        return Owner(
            int(process.name), program_name(arguments[:-1]), service_of(arguments), _home(process)
        )
    return Owner()


def _home(process: Path) -> Path | None:
    with contextlib.suppress(OSError):
        for entry in (process / "environ").read_bytes().split(b"\0"):
            name, _, value = entry.partition(b"=")
            if name == b"CARAVAN_HOME" and value:
                folder = Path(os.fsdecode(value))
                return ((process / "cwd").readlink() / folder).resolve()
    return None
