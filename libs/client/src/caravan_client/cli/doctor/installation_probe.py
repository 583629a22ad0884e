"""Looks at the services' code: the checkout, its environment, llama.cpp and the settings.

The environment may be another than the one this command runs in, and llama.cpp can end a process,
so both are asked in processes of their own.
"""

import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from caravan_client.cli.doctor.bounded import Ended, gather, run_program
from caravan_client.cli.doctor.facts import SERVICES, Installation, Llama
from caravan_client.cli.doctor.machine_probe import cpu_features

_LOCKED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s\\;]+)([^\S\n]*;)?", re.MULTILINE)
_MARK = "caravan-doctor:"

_ASK_VERSIONS = """
import json, re
from importlib.metadata import distributions
name = lambda one: re.sub(r"[-_.]+", "-", one.metadata["Name"] or "").lower()
print("caravan-doctor:" + json.dumps({name(one): one.version for one in distributions()}))
"""
_ASK_LLAMA = """
import json
import llama_cpp
print("caravan-doctor:" + json.dumps({
    "version": llama_cpp.__version__,
    "system": llama_cpp.llama_print_system_info().decode(),
    "gpu": bool(llama_cpp.llama_supports_gpu_offload()),
}))
"""


def find_checkout(*starts: Path) -> Path | None:
    """The checkout around one of these places."""
    for start in starts:
        for folder in (start, *start.parents):
            if (folder / "services" / "engine" / "pyproject.toml").is_file():
                return folder
    return None


def has_services(root: Path | None) -> bool:
    """Whether more than the client is installed."""
    return root is not None or importlib.util.find_spec("caravan_engine") is not None


def probe_installation(root: Path | None) -> Installation:
    """The services' installation, in the checkout's environment or else in our own."""
    python = Path(sys.executable) if root is None else root / ".venv" / "bin" / "python"
    # The links are followed to know that the interpreter is there, not to name it: a virtual
    # environment's is a link.
    if not python.exists():
        return Installation(root, python, has_python=False, tools=_tools(), has_gpu=_has_gpu())
    programs = {
        "versions": lambda: run_program([python, "-c", _ASK_VERSIONS], cwd=root),
        "llama": lambda: run_program([python, "-c", _ASK_LLAMA], cwd=root),
        "cmake": lambda: run_program(["cmake", "--version"]),
        **{name: _settings_probe(python, root, name) for name in SERVICES},
    }
    done = gather(programs, limit_s=7)
    versions = _answer(done.get("versions"))
    locked, conditional = read_lock(_lock_text(root))
    return Installation(
        root,
        python,
        has_python=True,
        answers=versions is not None,
        versions=versions or {},
        locked=locked,
        conditional=conditional,
        llama=read_llama(done.get("llama")),
        settings_faults=tuple(
            line for name in SERVICES for line in read_settings_faults(done.get(name))
        ),
        tools=_tools(),
        cmake_version=read_cmake_version(done.get("cmake")),
        cpu_features=cpu_features(),
        has_gpu=_has_gpu(),
    )


def read_llama(ended: Ended | None) -> Llama | None:
    """How llama_cpp was built, from what the process that imported it said."""
    if ended is None:
        return None
    if ended.status < 0:
        signal = "an illegal instruction" if ended.status == -4 else f"signal {-ended.status}"
        return Llama(fault=f"importing it ends the process with {signal}")
    answer = _answer(ended)
    if answer is None:
        lines = ended.stderr.strip().splitlines()
        return Llama(fault=lines[-1][:200] if lines else f"status {ended.status}")
    system = str(answer["system"])
    return Llama(
        version=str(answer["version"]),
        features=frozenset(re.findall(r"(\w+) = 1", system)),
        backends=tuple(dict.fromkeys(re.findall(r"(\w+) :", system))) or ("CPU",),
    )


def read_settings_faults(ended: Ended | None) -> tuple[str, ...]:
    """What a service has to say against its settings."""
    if ended is None or ended.status != 2:
        return ()
    return tuple(line for line in ended.stderr.strip().splitlines() if line)


def read_cmake_version(ended: Ended | None) -> tuple[int, ...] | None:
    """From the first line of `cmake --version`."""
    found = re.search(r"cmake version (\d+)\.(\d+)", ended.stdout) if ended else None
    return (int(found[1]), int(found[2])) if found else None


def _settings_probe(python: Path, root: Path | None, service: str) -> Callable[[], Ended | None]:
    command: list[str | Path] = [python, "-m", f"caravan_{service}", "--print-config=json"]
    return lambda: run_program(command, cwd=root)


def _answer(ended: Ended | None) -> dict[str, str] | None:
    """The JSON after our mark; a library may have printed lines of its own before."""
    if ended is None or ended.status != 0:
        return None
    _, mark, text = ended.stdout.rpartition(_MARK)
    return dict(json.loads(text)) if mark else None


def read_lock(lock: str) -> tuple[dict[str, frozenset[str]], frozenset[str]]:
    """What a lock file pins, and which of it only some platforms need."""
    versions: dict[str, frozenset[str]] = {}
    conditional = set()
    for name, version, condition in _LOCKED.findall(lock):
        canonical = re.sub(r"[-_.]+", "-", name).lower()
        versions[canonical] = versions.get(canonical, frozenset()) | {version}
        if condition:
            conditional.add(canonical)
    return versions, frozenset(conditional)


def _lock_text(root: Path | None) -> str:
    if root is None:
        return ""
    try:
        return (root / "requirements.lock").read_text(encoding="utf-8")
    except OSError:
        return ""


def _tools() -> dict[str, str | None]:
    return {
        "a C compiler": _first(os.environ.get("CC", "cc"), "gcc", "clang"),
        "a C++ compiler": _first(os.environ.get("CXX", "c++"), "g++", "clang++"),
        "cmake": shutil.which("cmake"),
    }


def _first(*names: str) -> str | None:
    return next((path for name in names if (path := shutil.which(name))), None)


def _has_gpu() -> bool:
    return Path("/dev/nvidia0").exists() or Path("/proc/driver/nvidia/version").exists()
