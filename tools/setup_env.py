"""Prepares .venv: pinned build tools, llama.cpp's bindings, pinned packages, this repository's own.

Needs only the standard library, because it runs before anything is installed. Each stage leaves a
stamp with what it was made from, so a second run only compares stamps.
"""

import fcntl
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import built_wheels
from built_wheels import BuiltWheels, digest
from progress import CommandError, say, watch

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMPS = VENV / "setup-stamps.json"
LOG = VENV / "setup.log"
LOCK = ROOT / "requirements.lock"
BUILD_LOCK = ROOT / "requirements-build.lock"
LLAMA = "llama-cpp-python"
LLAMA_PROJECT = ROOT / "tools" / "llama_cpp.cmake"
CMAKE_ARGS = (
    "-DLLAVA_BUILD=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_ALL_WARNINGS=OFF",
    "-DGGML_ALL_WARNINGS=OFF",
    "-DGGML_NATIVE=ON",
)
MINIMUM_CMAKE = (3, 21)
BYTES_PER_COMPILER = 1 << 30


class SetupError(Exception):
    """Something that the user has to mend; its text says how."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the setup; `made_from` changes exactly when it has to be repeated."""

    name: str
    made_from: str
    build: Callable[[], None]


def main() -> int:
    """Brings .venv up to date and returns the exit status."""
    try:
        if pending(stages()):
            with exclusive():
                prepare()
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except CommandError as error:
        print(f"\n{error}\nThe whole output is in {LOG}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def prepare() -> None:
    """Runs the stages that aren't up to date, in order."""
    LOG.write_text("")
    todo = pending(stages())
    for number, stage in enumerate(todo, start=1):
        say(f"[{number}/{len(todo)}] {stage.name}")
        stage.build()
        STAMPS.write_text(json.dumps({**stamps(), stage.name: stage.made_from}, indent=2))
    say(f"ready: {VENV.name}, Python {platform.python_version()}")


def stages() -> list[Stage]:
    """Returns all stages in order."""
    arguments = cmake_arguments()
    return [
        Stage("virtual environment", digest(str(ROOT)), create_venv),
        Stage("build tools", digest(BUILD_LOCK.read_text()), install_build_tools),
        Stage("llama.cpp", digest(*wheel_inputs(arguments)), lambda: install_llama(arguments)),
        Stage("packages", digest(LOCK.read_text()), install_packages),
        Stage("Caravan", digest(*(path.read_text() for path in distributions())), install_own),
    ]


def pending(wanted: list[Stage]) -> list[Stage]:
    """Returns the stages whose stamp differs; a new environment repeats everything."""
    done = stamps()
    if not PYTHON.exists() or done.get(wanted[0].name) != wanted[0].made_from:
        return wanted
    return [stage for stage in wanted if done.get(stage.name) != stage.made_from]


def stamps() -> dict[str, str]:
    """Returns what the finished stages were made from."""
    try:
        return dict(json.loads(STAMPS.read_text()))
    except (FileNotFoundError, ValueError):
        return {}


@contextmanager
def exclusive() -> Iterator[None]:
    """Lets a second setup of the same checkout wait for the first."""
    VENV.mkdir(exist_ok=True)
    with (VENV / "setup.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another setup of this checkout")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def create_venv() -> None:
    """Creates an empty environment; scripts in it name its path, so a moved one is made anew."""
    check_tools()
    for path in VENV.iterdir():
        if path.name in {"setup.lock", LOG.name}:
            continue
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    venv.EnvBuilder(symlinks=True, with_pip=True, prompt="caravan").create(VENV)


def check_tools() -> None:
    """Refuses early what would fail after minutes."""
    missing = []
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        missing.append(("a C++ compiler", "g++"))
    if not any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang")):
        missing.append(("a C compiler", "gcc"))
    if shutil.which("cmake") is None:
        missing.append(("cmake", "cmake"))
    if missing:
        what = " and ".join(name for name, _ in missing)
        packages = " ".join(package for _, package in missing)
        raise SetupError(f"llama.cpp's build needs {what}:  sudo apt install {packages}")
    check_cmake()


def check_cmake() -> None:
    """Refuses a cmake that is too old for llama.cpp."""
    output = subprocess.run(["cmake", "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"(\d+)\.(\d+)", output.stdout)
    if found is None or (int(found[1]), int(found[2])) < MINIMUM_CMAKE:
        wanted = ".".join(str(part) for part in MINIMUM_CMAKE)
        first_line = output.stdout.partition("\n")[0]
        raise SetupError(
            f"llama.cpp's build needs cmake {wanted} or newer, found {first_line!r}:"
            "  sudo apt install cmake (Debian 12 or newer)"
        )


def install_build_tools() -> None:
    """Installs pip and the build backends that the next stages use."""
    pip("install", "--require-hashes", "--requirement", str(BUILD_LOCK))


def install_llama(arguments: list[str]) -> None:
    """Installs llama.cpp's bindings, compiled for this machine now or by an earlier setup."""
    folder = built_wheels.cache_folder() / digest(*wheel_inputs(arguments))
    wheels = BuiltWheels(folder, built_wheels.compiler())
    if wheels.find() is None:
        build_llama(wheels.place, arguments)
    pip("install", "--no-deps", "--no-index", "--force-reinstall", str(wheels.find()))


def build_llama(folder: Path, arguments: list[str]) -> None:
    """Builds the wheel into `folder`, which appears only when it is complete."""
    check_tools()
    say("    compiling llama.cpp for this machine, some minutes on 2 cores")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        requirement = Path(scratch) / "llama.lock"
        # pip takes build options for a requirement of a file only from that file.
        options = ";".join([*arguments, f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={LLAMA_PROJECT}"])
        settings = f"--config-settings={shlex.quote(f'cmake.args={options}')}"
        requirement.write_text(f"{entry(LOCK, LLAMA).rstrip()} \\\n    {settings}\n")
        wheels = Path(scratch) / "wheels"
        pip(
            *("wheel", "--verbose", "--no-deps", "--no-build-isolation", "--no-cache-dir"),
            *("--require-hashes", "--requirement", str(requirement), "--wheel-dir", str(wheels)),
        )
        shutil.rmtree(folder, ignore_errors=True)
        wheels.rename(folder)


def install_packages() -> None:
    """Installs everything that the lock names; llama.cpp's bindings are there already."""
    pip("install", "--require-hashes", "--requirement", str(LOCK))


def install_own() -> None:
    """Installs the distributions of this repository so that edits take effect at once."""
    editables = (("--editable", str(path.parent)) for path in distributions())
    flags = (word for pair in editables for word in pair)
    pip("install", "--no-deps", "--no-build-isolation", "--no-index", *flags)


def pip(*arguments: str) -> None:
    """Runs pip inside the environment, its output in the log and on one moving line."""
    environment = {**os.environ, "CMAKE_BUILD_PARALLEL_LEVEL": str(parallel_compilers())}
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    watch(command, log=LOG, environment=environment)


def parallel_compilers() -> int:
    """Returns how many compilers this machine, or this container, can run at once."""
    asked = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", "")
    if asked.isdigit():
        return int(asked)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory // BYTES_PER_COMPILER))


def cmake_arguments() -> list[str]:
    """Returns the options of llama.cpp's build, ours first so that the user's win."""
    return [*CMAKE_ARGS, *shlex.split(os.environ.get("CARAVAN_CMAKE_ARGS", ""))]


def wheel_inputs(arguments: list[str]) -> list[str]:
    """Returns what one compiled wheel was made from, but for the compiler.

    The compiler isn't in the stamp: one that is newer is no reason to compile again.
    """
    return [entry(LOCK, LLAMA), *arguments, LLAMA_PROJECT.read_text(), *built_wheels.machine()]


def entry(lock: Path, name: str) -> str:
    """Returns the lines of one package in a lock, its hashes included."""
    found = re.search(rf"^{re.escape(name)}==(?:.*\\\n)*.*\n", lock.read_text(), re.MULTILINE)
    if found is None:
        raise SetupError(f"{lock.name} doesn't name {name}; `make lock` writes it anew")
    return found[0]


def distributions() -> list[Path]:
    """Returns the pyproject.toml of each distribution of this repository."""
    return sorted([*ROOT.glob("libs/*/pyproject.toml"), *ROOT.glob("services/*/pyproject.toml")])


if __name__ == "__main__":
    sys.exit(main())
