"""Writes and checks the lock files: every package pinned and hashed, no address anywhere.

The inputs are requirements*.in and the dependencies in the distributions' pyproject.toml files.
Each lock notes a digest of its inputs, so that drift is found without a network.

Usage: locks.py compile [--upgrade] | check
"""

import hashlib
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
MAIN_LOCK = ROOT / "requirements.lock"
BUILD_LOCK = ROOT / "requirements-build.lock"
MAIN_INPUT = ROOT / "requirements.in"
BUILD_INPUT = ROOT / "requirements-build.in"
OWN_PREFIX = "caravan-"
DIGEST_LABEL = "# inputs sha256:"
ADDRESS = re.compile(r"://|--(extra-)?index-url|--find-links|--trusted-host| @ |(^|\s)[./]\S*/")
UNWANTED = {
    "casbin": "it and pycasbin own the same import",
    "grpc-stubs": "it overwrites the stubs of types-grpcio",
}


@dataclass(frozen=True, slots=True)
class Lock:
    """One lock file and the requirements that it pins."""

    path: Path
    inputs: tuple[str, ...]

    @property
    def label(self) -> str:
        """The path as a reader of messages knows it."""
        return str(self.path.relative_to(ROOT))

    def digest_line(self) -> str:
        """Returns the line that ties the lock to its inputs."""
        text = "\n".join(self.inputs)
        return DIGEST_LABEL + hashlib.sha256(text.encode()).hexdigest()


def main(arguments: list[str]) -> int:
    """Runs the command in `arguments` and returns the exit status."""
    match arguments:
        case ["compile", *rest] if rest in ([], ["--upgrade"]):
            for lock in locks():
                compile_lock(lock, upgrade=bool(rest))
            return 0
        case ["check"]:
            faults = [fault for lock in locks() for fault in find_faults(lock)]
            print("\n".join(faults) or "locks are in step with their inputs", flush=True)
            return 1 if faults else 0
    print(__doc__, file=sys.stderr)
    return 2


def locks() -> list[Lock]:
    """Returns all locks; the first one pins what the others take from it."""
    projects = read_projects()
    build = read_input(BUILD_INPUT)
    everything = {need for name in projects for need in third_party(name, projects)}
    services = sorted(ROOT.glob("services/*/pyproject.toml"))
    return [
        Lock(MAIN_LOCK, tuple(sorted({*everything, *read_input(MAIN_INPUT), *build}))),
        Lock(BUILD_LOCK, tuple(sorted(build))),
        *(
            Lock(
                path.with_name("requirements.lock"),
                tuple(sorted(third_party(project_name(path), projects))),
            )
            for path in services
        ),
    ]


def read_projects() -> dict[str, list[str]]:
    """Returns the dependencies of each distribution of this repository."""
    paths = [*ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")]
    return {
        project_name(path): list(tomllib.loads(path.read_text())["project"]["dependencies"])
        for path in paths
    }


def project_name(path: Path) -> str:
    """Returns the name of the distribution in a pyproject.toml."""
    return canonicalize_name(tomllib.loads(path.read_text())["project"]["name"])


def third_party(name: str, projects: dict[str, list[str]]) -> set[str]:
    """Returns what a distribution needs from elsewhere, itself or through our others."""
    wanted: set[str] = set()
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        for text in projects[current]:
            needed = canonicalize_name(Requirement(text).name)
            if needed.startswith(OWN_PREFIX):
                waiting.append(needed)
            else:
                wanted.add(str(Requirement(text)))
    return wanted


def read_input(path: Path) -> set[str]:
    """Returns the requirements of a .in file."""
    lines = (line.partition("#")[0].strip() for line in path.read_text().splitlines())
    return {str(Requirement(line)) for line in lines if line}


def compile_lock(lock: Lock, *, upgrade: bool) -> None:
    """Resolves a lock; pins that still fit stay, unless `upgrade`."""
    print(f"resolving {lock.label}", flush=True)
    constraints = [] if lock.path == MAIN_LOCK else ["--constraints", str(MAIN_LOCK)]
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "-", "--output-file", str(lock.path)),
        *("--universal", "--python-version", "3.11", "--generate-hashes", "--quiet"),
        *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
        *constraints,
        *(["--upgrade"] if upgrade else []),
    ]
    subprocess.run(command, input="\n".join(lock.inputs), text=True, check=True, cwd=ROOT)
    pins = lock.path.read_text()
    lock.path.write_text(f"# Written by `make lock`.\n{lock.digest_line()}\n{pins}")


def find_faults(lock: Lock) -> list[str]:
    """Returns what is wrong with a lock, as far as can be seen without a network."""
    if not lock.path.exists():
        return [f"{lock.label} is missing: `make lock`"]
    text = lock.path.read_text()
    faults = [f"{lock.label}: address in {line!r}" for line in address_lines(text)]
    if lock.digest_line() not in text.splitlines():
        faults.append(f"{lock.label} is older than its inputs: `make lock`")
    pins = read_pins(text)
    faults += [f"{lock.label}: {name} has no hash" for name, pin in pins.items() if not pin.hashed]
    faults += [f"{lock.label}: {name}: {UNWANTED[name]}" for name in pins.keys() & UNWANTED.keys()]
    return faults + unmet(lock, pins) + strays(lock, pins)


def address_lines(text: str) -> list[str]:
    """Returns the lines that name a registry, a folder or a file."""
    return [line for line in text.splitlines() if ADDRESS.search(line)]


@dataclass(frozen=True, slots=True)
class Pin:
    """A package as a lock names it; several versions where markers tell them apart."""

    versions: frozenset[str]
    hashed: bool


def read_pins(text: str) -> dict[str, Pin]:
    """Returns the packages of a lock by canonical name."""
    pins: dict[str, Pin] = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", text):
        found = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", block)
        if found is None:
            continue
        name, hashed = canonicalize_name(found[1]), "--hash=sha256:" in block
        known = pins.get(name, Pin(frozenset(), hashed=True))
        pins[name] = Pin(known.versions | {found[2]}, known.hashed and hashed)
    return pins


def unmet(lock: Lock, pins: dict[str, Pin]) -> list[str]:
    """Returns the inputs that no pin satisfies."""
    faults = []
    for text in lock.inputs:
        requirement = Requirement(text)
        pin = pins.get(canonicalize_name(requirement.name))
        versions = pin.versions if pin else frozenset()
        if not any(Version(version) in requirement.specifier for version in versions):
            faults.append(f"{lock.label}: nothing satisfies {text!r}")
    return faults


def strays(lock: Lock, pins: dict[str, Pin]) -> list[str]:
    """Returns the pins that differ from the main lock's; what runs here is what images hold."""
    main = read_pins(MAIN_LOCK.read_text()) if MAIN_LOCK.exists() else {}
    return [
        f"{lock.label}: {name} differs from {MAIN_LOCK.name}"
        for name, pin in pins.items()
        if name not in main or not pin.versions <= main[name].versions
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
