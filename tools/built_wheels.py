"""Wheels compiled on this machine, kept between checkouts: found again by what they depend on.

That is the source, the options, the processor, the C library and the compiler. Not the Python that
runs the setup: llama.cpp's bindings call a shared library, which any Python loads.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

# As cmake looks for them: the variable, and the names that it tries without one.
COMPILERS = (("CC", ("cc", "gcc", "clang")), ("CXX", ("c++", "g++", "clang++")))
FLAGS = ("CPPFLAGS", "CFLAGS", "CXXFLAGS", "LDFLAGS")


@dataclass(frozen=True, slots=True)
class BuiltWheels:
    """The wheels of one source, one set of options and this machine, a folder for each compiler."""

    folder: Path
    compiler: str | None

    @property
    def place(self) -> Path:
        """The folder of wheels by this compiler; it is there only when it is complete."""
        return self.folder / digest(self.compiler or "")

    def find(self) -> Path | None:
        """Returns a wheel by this compiler; where there is none, one by whichever made one."""
        pattern = "*.whl" if self.compiler else "*/*.whl"
        found = (self.place if self.compiler else self.folder).glob(pattern)
        return min(found, default=None)


def cache_folder() -> Path:
    """Returns where wheels compiled on this machine are kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "caravan" / "wheels"


def machine() -> tuple[str, ...]:
    """Names what a natively compiled library depends on: the processor and the C library."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return (platform.machine(), features, sysconfig.get_platform(), c_library())


def c_library() -> str:
    """Returns the C library's version, which `platform` would read out of Python's own file."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):
        return ""


def compiler() -> str | None:
    """Names the compilers that cmake would take and their flags, wherever they are; None without.

    Versions and targets are compared, not paths: another PATH often leads to the same compiler.
    """
    found = [identity(variable, names) for variable, names in COMPILERS]
    if None in found:
        return None
    flags = (f"{name}={os.environ.get(name, '')}" for name in FLAGS)
    return "\n".join([*map(str, found), *flags])


def identity(variable: str, names: tuple[str, ...]) -> str | None:
    """Returns version and target of the first of these compilers that is there."""
    candidates = [shlex.split(os.environ.get(variable, "")), *([name] for name in names)]
    command = next((each for each in candidates if each and shutil.which(each[0])), None)
    if command is None:
        return None
    version, target = (first_line([*command, flag]) for flag in ("--version", "-dumpmachine"))
    return f"{version.removeprefix(Path(command[0]).name)} {target}"  # g++ is c++ by another name


def first_line(command: list[str]) -> str:
    """Returns the first line that a compiler says of itself."""
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return output.partition("\n")[0]


def digest(*parts: str) -> str:
    """Returns a short digest of `parts`."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
