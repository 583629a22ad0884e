"""Gets the compiler and the gRPC plugin for C#.

gRPC publishes the plugin as a program on NuGet only, which many build machines cannot reach. Its
source is part of the source distribution of `grpcio-tools`, which the lock file pins by its hash;
with Debian's protobuf compiler, unpacked beside it and not installed, it builds in seconds.
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

from protoc_plugins import StepFailedError, ToolMissingError, need, run

_SOURCES = ("csharp_generator.cc", "csharp_plugin.cc", "proto_parser_helper.cc")
_WANTED = r"/(?:src/compiler|include/grpcpp/impl/codegen)/"
_NAMES = ("GetClassName", "GetFileNamespace", "GetOutputFile", "GetReflectionClassName")
_PACKAGES = ("protobuf-compiler", "libprotobuf-dev", "libprotoc-dev", "libabsl-dev")


@dataclass(frozen=True, slots=True)
class CSharpTools:
    """What generates C#."""

    protoc: Path
    plugin: Path
    library_folder: Path | None
    """Where the compiler finds its libraries; None is where the system has them."""

    def environment(self) -> dict[str, str]:
        """What both programs run in."""
        if self.library_folder is None:
            return dict(os.environ)
        return {**os.environ, "LD_LIBRARY_PATH": str(self.library_folder)}


def csharp_tools(folder: Path, lock: Path) -> CSharpTools:
    """Takes the programs that are installed, else makes them.

    Args:
        folder: where they are made, and stay.
        lock: the requirements that pin `grpcio-tools`.
    """
    installed = shutil.which("protoc"), shutil.which("grpc_csharp_plugin")
    if installed[0] and installed[1]:
        return CSharpTools(Path(installed[0]), Path(installed[1]), None)
    place = folder / "csharp"
    root = place / "debian"
    plugin = place / "grpc_csharp_plugin"
    if not plugin.exists():
        try:
            need("apt-get", "dpkg", "g++")
        except ToolMissingError as error:
            raise ToolMissingError(f"no grpc_csharp_plugin, and to build it {error}") from None
        place.mkdir(parents=True, exist_ok=True)
        _unpack_debian(place, root)
        source = _unpack_source(place, lock)
        _build(source, root, plugin)
        shutil.rmtree(source.parent)
    return CSharpTools(root / "usr" / "bin" / "protoc", plugin, _library_folder(root))


def _unpack_debian(place: Path, root: Path) -> None:
    downloads = place / "packages"
    shutil.rmtree(downloads, ignore_errors=True)
    downloads.mkdir()
    try:
        names = [*_PACKAGES, *_libraries()]
        run(["apt-get", "download", *names], cwd=downloads, timeout_s=120)
    except (StepFailedError, subprocess.SubprocessError) as error:
        reason = f"no grpc_csharp_plugin, and no Debian packages to build it with: {error}"
        raise ToolMissingError(reason) from None
    for package in sorted(downloads.glob("*.deb")):
        run(["dpkg", "-x", package, root], cwd=place, timeout_s=60)
    shutil.rmtree(downloads)


def _libraries() -> list[str]:
    """The packages of the shared libraries, whose names hold their version."""
    command = ["apt-cache", "depends", "libprotobuf-dev", "libprotoc-dev"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return sorted(set(re.findall(r"Depends: (libproto(?:buf|c)\d\S*)", listed.stdout)))


def _library_folder(root: Path) -> Path:
    return next((root / "usr" / "lib").glob("*/libprotoc.so")).parent


def _unpack_source(place: Path, lock: Path) -> Path:
    """Downloads the source distribution that `lock` pins and returns the gRPC in it."""
    pin = re.search(r"^grpcio-tools==.*?(?:[^\\]\n)", lock.read_text(), re.MULTILINE | re.DOTALL)
    if pin is None:
        raise StepFailedError(f"{lock.name} doesn't pin grpcio-tools")
    requirement = place / "requirement.txt"
    requirement.write_text(pin[0])
    options = ["--no-deps", "--no-binary=grpcio-tools", "--no-build-isolation", "--require-hashes"]
    options += ["--requirement", str(requirement)]
    command = [sys.executable, "-m", "pip", "download", *options]
    run(command, cwd=place, timeout_s=300)
    (archive,) = place.glob("grpcio_tools-*.tar.gz")
    with tarfile.open(archive) as packed:
        wanted = [member for member in packed if re.search(_WANTED, member.name)]
        packed.extractall(place, members=wanted, filter="data")
    archive.unlink()
    return next(place.glob("grpcio_tools-*/grpc_root"))


def _build(source: Path, root: Path, plugin: Path) -> None:
    libraries = _library_folder(root)
    # Newer gRPC names these by a header that Debian's protobuf has under another name.
    names = "::google::protobuf::compiler::csharp"
    macros = [f"-DGRPC_CUSTOM_CSHARP_{name.upper()}={names}::{name}" for name in _NAMES]
    includes = [f"-I{folder}" for folder in (source, source / "include", root / "usr" / "include")]
    command: list[str | Path] = [
        *("g++", "-std=c++17", *includes),
        *("-include", "google/protobuf/compiler/csharp/csharp_names.h", *macros),
        *(source / "src" / "compiler" / name for name in _SOURCES),
        *("-o", plugin, f"-Wl,-rpath,{libraries}"),
        *(libraries / f"lib{name}.so" for name in ("protoc", "protobuf")),
    ]
    run(command, cwd=source, timeout_s=180)
