"""Gets the programs that generate stubs, each by the package manager of its language.

Owns their versions and where they lie. Everything is installed below a folder of its own, never
into the machine; a program of the right version that is there already is kept.
"""

import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

GO_PLUGINS = (
    "google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12",
    "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2",
)
JAVA_PROTOC = "com.google.protobuf:protoc:4.36.2"
JAVA_PLUGIN = "io.grpc:protoc-gen-grpc-java:1.83.0"
RUST_PLUGINS = (
    "protoc-gen-prost@0.5.0",
    "protoc-gen-tonic@0.5.0",
    "protoc-gen-prost-crate@0.5.0",
)
MAVEN = ("mvn", "--batch-mode", "--quiet", "-Dstyle.color=never")
_MAVEN_COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.11.0:copy"

_TAIL_CHARACTERS = 3000


class ToolMissingError(Exception):
    """This machine lacks a program; the text names it."""


class StepFailedError(Exception):
    """A command failed; the text holds it and the end of its output."""


def need(*programs: str) -> None:
    """Checks that programs are there.

    Raises:
        ToolMissingError: one isn't on the PATH.
    """
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise ToolMissingError(f"{', '.join(missing)} not on the PATH")


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Runs a command and keeps its output to itself, unless it fails.

    Raises:
        StepFailedError: it ended with another status than 0, or took too long.
    """
    words = [str(word) for word in command]
    try:
        subprocess.run(
            words,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        text = f"{' '.join(words)}\n{error.output[-_TAIL_CHARACTERS:]}"
        raise StepFailedError(text) from None
    except subprocess.TimeoutExpired:
        raise StepFailedError(f"{' '.join(words)}\nnot within {timeout_s:.0f} s") from None


def go_plugins(folder: Path, environment: Mapping[str, str]) -> list[Path]:
    """Builds the plugins for Go, in the versions that their own modules pin."""
    need("go")
    programs = []
    for package in GO_PLUGINS:
        place = folder / "go" / _version(package)
        program = place / package.partition("@")[0].rpartition("/")[2]
        if not program.exists():
            place.mkdir(parents=True, exist_ok=True)
            settings = {**environment, "GOBIN": str(place), "GOFLAGS": "-buildvcs=false"}
            run(["go", "install", package], cwd=place, timeout_s=300, environment=settings)
        programs.append(program)
    return programs


def typescript_plugin(folder: Path, package: Path) -> Path:
    """Installs what the lock file in `package` pins."""
    need("npm", "node")
    place = folder / "typescript"
    place.mkdir(parents=True, exist_ok=True)
    program = place / "node_modules" / ".bin" / "protoc-gen-es"
    lock = package / "package-lock.json"
    installed = place / lock.name
    if program.exists() and installed.exists() and installed.read_text() == lock.read_text():
        return program
    shutil.copyfile(package / "package.json", place / "package.json")
    shutil.copyfile(lock, installed)
    command = ["npm", "ci", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund"]
    run(command, cwd=place, timeout_s=180)
    return program


def java_programs(folder: Path) -> tuple[Path, Path]:
    """Gets the compiler and the plugin for Java, both published as programs; in this order."""
    need("mvn", "java")
    compiler, plugin = (_maven_program(folder, name) for name in (JAVA_PROTOC, JAVA_PLUGIN))
    return compiler, plugin


def _maven_program(folder: Path, coordinates: str) -> Path:
    artifact = f"{coordinates}:exe:{_maven_platform()}"
    _, name, version, *_ = artifact.split(":")
    place = folder / "java" / version
    program = place / f"{name}-{version}-{_maven_platform()}.exe"
    if not program.exists():
        place.mkdir(parents=True, exist_ok=True)
        options = [f"-Dartifact={artifact}", f"-DoutputDirectory={place}"]
        run([*MAVEN, _MAVEN_COPY, *options], cwd=place, timeout_s=180)
        program.chmod(0o755)
    return program


def _maven_platform() -> str:
    system = {"Linux": "linux", "Darwin": "osx"}.get(platform.system(), "")
    machine = {"x86_64": "x86_64", "aarch64": "aarch_64", "arm64": "aarch_64"}.get(
        platform.machine(), ""
    )
    if not system or not machine:
        raise ToolMissingError(f"no compiler for {platform.system()} on {platform.machine()}")
    return f"{system}-{machine}"


def rust_plugins(folder: Path) -> list[Path]:
    """Builds the plugins for Rust, with the dependencies that they were published with."""
    need("cargo")
    place = folder / "rust" / _version(RUST_PLUGINS[0])
    programs = [place / "bin" / package.partition("@")[0] for package in RUST_PLUGINS]
    if not all(program.exists() for program in programs):
        place.mkdir(parents=True, exist_ok=True)
        target = place / "target"
        options = ["--locked", "--debug", "--root", str(place), "--target-dir", str(target)]
        run(["cargo", "install", *options, *RUST_PLUGINS], cwd=place, timeout_s=1200)
        shutil.rmtree(target)
    return programs


def _version(package: str) -> str:
    return package.rpartition("@")[2]
