"""llama-server, built from the source that llama-cpp-python's source distribution contains.

Usage: peer.py   (builds it once into build/peer and prints the path)
"""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from caravan_testkit.network import free_port

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "peer"
SERVER = BUILD / "cmake" / "bin" / "llama-server"
BIN = Path(sys.executable).parent
START_S = 120


def build() -> Path:
    """Builds llama-server if it isn't there, and returns its path. Takes about ten minutes."""
    if SERVER.exists():
        return SERVER
    source = _source()
    configure = [
        "cmake",
        "-S",
        str(source),
        "-B",
        str(BUILD / "cmake"),
        "-DCMAKE_BUILD_TYPE=Release",
        "-DLLAMA_BUILD_TESTS=OFF",
        "-DLLAMA_BUILD_EXAMPLES=OFF",
        "-DLLAMA_BUILD_UI=OFF",
        "-DLLAMA_USE_PREBUILT_UI=OFF",
        "-DLLAMA_CURL=OFF",
        "-DLLAMA_OPENSSL=OFF",
    ]
    if (BIN / "ninja").exists():
        configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}"]
    subprocess.run(configure, check=True)
    command = ["cmake", "--build", str(BUILD / "cmake"), "--target", "llama-server", "--parallel"]
    subprocess.run([*command, str(os.cpu_count() or 1)], check=True)
    return SERVER


@contextmanager
def running(model: Path, flags: list[str], log: Path):
    """A llama-server of its own; yields (port, pid)."""
    port = free_port()
    command = [str(build()), "-m", str(model), "--host", "127.0.0.1", "--port", str(port), *flags]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        _wait_until_ready(port, process, log)
        yield port, process.pid
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)


def _source() -> Path:
    """The llama.cpp tree inside the locked version's source distribution, unpacked."""
    locked = re.search(r"^llama-cpp-python==(\S+)", _lock(), re.MULTILINE)
    if locked is None:
        raise RuntimeError("requirements.lock doesn't name llama-cpp-python")
    target = BUILD / "source"
    tree = target / f"llama_cpp_python-{locked.group(1)}" / "vendor" / "llama.cpp"
    if tree.exists():
        return tree
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    download = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation"]
    name = f"llama-cpp-python=={locked.group(1)}"
    subprocess.run(
        [*download, "--no-binary", ":all:", "--quiet", "--dest", str(target), name], check=True
    )
    [archive] = target.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(target, filter="data")
    return tree


def _lock() -> str:
    return (ROOT / "requirements.lock").read_text()


def _wait_until_ready(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"llama-server ended:\n{log.read_text(errors='replace')[-2000:]}")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
        else:
            return
    raise TimeoutError("llama-server did not become ready")


if __name__ == "__main__":
    print(build())
