"""Generates stubs of protos/ for other languages, each as a package that its tools can build.

Usage: stubs.py [--out FOLDER] [LANGUAGE ...]

Without names all languages are generated, into build/stubs/LANGUAGE. A language whose tools are
missing is named and left out; the status is 1 only when something failed that should have worked.
"""

import argparse
import filecmp
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import google.rpc.status_pb2

from csharp_plugin import csharp_tools
from protoc_plugins import (
    StepFailedError,
    ToolMissingError,
    go_plugins,
    java_programs,
    run,
    rust_plugins,
    typescript_plugin,
)

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
OUT = ROOT / "build" / "stubs"
PLUGINS = ROOT / "build" / "plugins"
PACKAGES = Path(__file__).resolve().parent / "stub_packages"

GO_MODULE = "caravan.example/stubs"

Plugin = dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Generates the languages that `arguments` name and returns the exit status."""
    parser = argparse.ArgumentParser(prog="stubs.py", description="Stubs for other languages.")
    parser.add_argument("--out", type=Path, default=OUT, help="default: build/stubs")
    parser.add_argument("language", nargs="*", help=f"of {', '.join(LANGUAGES)}; default: all")
    chosen = parser.parse_args(arguments)
    unknown = sorted(set(chosen.language) - set(LANGUAGES))
    if unknown:
        parser.error(f"no such language: {', '.join(unknown)}")
    failed = [
        language
        for language in chosen.language or LANGUAGES
        if not _report(language, chosen.out.resolve() / language)
    ]
    return 1 if failed else 0


def _report(language: str, out: Path) -> bool:
    try:
        count = generate(language, out)
    except ToolMissingError as error:
        print(f"{language}: left out: {error}", flush=True)
    except StepFailedError as error:
        print(f"{language}: failed: {error}", file=sys.stderr, flush=True)
        return False
    else:
        print(f"{language}: {count} files in {out}", flush=True)
    return True


def generate(language: str, out: Path) -> int:
    """Generates one language into `out` and returns how many files that are.

    Files that are right already are not touched, so that a build of them has nothing to do.

    Raises:
        ToolMissingError: the machine lacks what the language needs.
        StepFailedError: a tool failed.
    """
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch) / "stubs"
        package = PACKAGES / language
        shutil.copytree(package, fresh)
        LANGUAGES[language](fresh)
        _mirror(fresh, out)
        return len(_files(fresh))


def _go(out: Path) -> None:
    programs = go_plugins(PLUGINS, os.environ)
    _compile([_plugin(program, out, f"module={GO_MODULE}") for program in programs])


def _typescript(out: Path) -> None:
    # JavaScript with declarations: Node runs it as it is, and TypeScript reads it as well.
    program = typescript_plugin(PLUGINS, PACKAGES / "typescript")
    (out / "package-lock.json").unlink()
    options = "target=js+dts", "import_extension=js"
    with tempfile.TemporaryDirectory() as scratch:
        details = Path(scratch)
        _copy_error_details(details)
        _compile([_plugin(program, out, *options)], PROTOS, details)


def _java(out: Path) -> None:
    compiler, program = java_programs(PLUGINS)
    sources = _folder(out / "src" / "main" / "java")
    _compile([_builtin("java", compiler, sources), _plugin(program, sources)])


def _rust(out: Path) -> None:
    messages, services, crate = rust_plugins(PLUGINS)
    sources = _folder(out / "src")
    plugins = [
        _plugin(messages, sources),
        _plugin(services, sources, "no_server"),
        _plugin(crate, sources, "include_file=lib.rs", "no_features"),
    ]
    _compile(plugins, at_once=True)


def _csharp(out: Path) -> None:
    tools = csharp_tools(PLUGINS, ROOT / "requirements.lock")
    plugins = [
        _builtin("csharp", tools.protoc, out, "base_namespace="),
        _plugin(tools.plugin, out, "base_namespace=", "no_server"),
    ]
    _compile(plugins, environment=tools.environment())


LANGUAGES: dict[str, Callable[[Path], None]] = {
    "go": _go,
    "typescript": _typescript,
    "java": _java,
    "rust": _rust,
    "csharp": _csharp,
}


def _plugin(program: Path, out: Path, *options: str) -> Plugin:
    return {"local": str(program), "out": str(out), "opt": list(options)}


def _builtin(name: str, compiler: Path, out: Path, *options: str) -> Plugin:
    return {
        "protoc_builtin": name,
        "protoc_path": str(compiler),
        "out": str(out),
        "opt": list(options),
    }


def _compile(
    plugins: list[Plugin],
    *inputs: Path,
    at_once: bool = False,
    environment: dict[str, str] | None = None,
) -> None:
    """Runs plugins over all contracts.

    What languages want to know of a contract beside itself, such as a Go package's path, is
    decided here and not written into the contracts.

    Args:
        plugins: what to run.
        inputs: folders of contracts, protos/ when left out.
        at_once: give a plugin all files in one call, not folder by folder.
        environment: what the plugins run in, this process's own when left out.
    """
    template = {
        "version": "v2",
        "managed": {
            "enabled": True,
            "disable": [{"file_option": "java_package"}],
            "override": [{"file_option": "go_package_prefix", "value": GO_MODULE}],
        },
        "plugins": [plugin | ({"strategy": "all"} if at_once else {}) for plugin in plugins],
        "inputs": [{"directory": str(folder)} for folder in inputs or (PROTOS,)],
    }
    buf = Path(sys.executable).parent / "buf"
    command = [str(buf), "generate", "--template", json.dumps(template)]
    run(command, cwd=ROOT, timeout_s=120, environment=environment)


def _copy_error_details(folder: Path) -> None:
    """Copies the contracts of Google's rich errors, for languages that have no package of them."""
    source = Path(google.rpc.status_pb2.__file__).parent
    target = _folder(folder / "google" / "rpc")
    for name in ("error_details.proto", "status.proto"):
        shutil.copyfile(source / name, target / name)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _mirror(fresh: Path, target: Path) -> None:
    """Makes `target` equal to `fresh`; what a build left at its top is kept."""
    wanted = _files(fresh)
    for name in wanted:
        _folder((target / name).parent)
        if not (target / name).exists() or not filecmp.cmp(fresh / name, target / name, False):
            shutil.copyfile(fresh / name, target / name)
    generated = {name.parts[0] for name in wanted if len(name.parts) > 1}
    for top in generated:
        for path in (target / top).rglob("*"):
            if path.is_file() and path.relative_to(target) not in wanted:
                path.unlink()


def _files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
