"""Generates the Python modules and type stubs of protos/ into libs/protos, and finds drift.

Usage: generate.py write | check
"""

import filecmp
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
TARGET = ROOT / "libs" / "protos" / "src" / "caravan"


def main(arguments: list[str]) -> int:
    """Runs the command in `arguments` and returns the exit status."""
    if arguments not in (["write"], ["check"]):
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = Path(scratch) / "caravan"
        return write(fresh) if arguments == ["write"] else check(fresh)


def generate(out: Path) -> None:
    """Generates everything into `out`, which has to exist."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    scripts = Path(sys.executable).parent
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTOS}"),
        f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
        *(f"--{kind}_out={out}" for kind in ("python", "grpc_python")),
        *(f"--{kind}_out=quiet:{out}" for kind in ("mypy", "mypy_grpc")),
        *sources,
    ]
    subprocess.run(command, check=True, cwd=PROTOS)
    for area in {path.parent for path in out.rglob("*_pb2.py")}:
        (area / "py.typed").touch()


def write(fresh: Path) -> int:
    """Replaces the committed code by the fresh one, touching only files that differ."""
    for name in drift(fresh):
        source, target = fresh / name, TARGET / name
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        else:
            target.unlink()
        print(f"updated {target.relative_to(ROOT)}")
    return 0


def check(fresh: Path) -> int:
    """Names each file that differs from what the protos give."""
    stale = list(drift(fresh))
    for name in stale:
        print(f"out of date: {(TARGET / name).relative_to(ROOT)}", file=sys.stderr)
    if stale:
        print("`make gen` mends this", file=sys.stderr)
    return 1 if stale else 0


def drift(fresh: Path) -> Iterator[Path]:
    """Yields the relative names that are missing, left over or different."""
    for name in sorted(files(fresh) | files(TARGET)):
        pair = fresh / name, TARGET / name
        if not all(path.exists() for path in pair) or not filecmp.cmp(*pair, shallow=False):
            yield name


def files(folder: Path) -> set[Path]:
    """Returns the relative names of all files but compiled ones."""
    return {
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
