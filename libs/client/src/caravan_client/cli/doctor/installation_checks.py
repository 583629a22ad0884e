"""Checks of the services' code."""

import shlex
from collections.abc import Iterator

from caravan_client.cli.doctor.facts import Installation
from caravan_client.cli.doctor.findings import Finding, note, ok, problem, warning

MINIMUM_CMAKE = (3, 21)

_SETUP = "make setup"
_OWN_PREFIX = "caravan-"
_CLIENT = "caravan-client"
_SHOWN = 5
_PACKAGES = {"a C compiler": "gcc", "a C++ compiler": "g++", "cmake": "cmake"}
# What llama.cpp calls a feature, and the kernel's names for what it needs.
_FEATURE_NEEDS = {
    "AVX": ("avx",),
    "AVX2": ("avx2",),
    "F16C": ("f16c",),
    "FMA": ("fma",),
    "AVX512": ("avx512f",),
    "AVX512_VBMI": ("avx512vbmi",),
    "AVX512_VNNI": ("avx512_vnni",),
    "AVX512_BF16": ("avx512_bf16",),
}


def check_environment(installation: Installation) -> Iterator[Finding]:
    """Whether there is an interpreter with packages."""
    python = installation.python
    if not installation.has_python:
        yield problem(f"there is no {python}", _SETUP)
    elif not installation.answers:
        yield warning(f"{python} did not answer", f"{_SETUP}, or ask again when there is less load")
    else:
        yield ok(f"{python}")


def check_tools(installation: Installation) -> Iterator[Finding]:
    """Whether llama.cpp can be built; once it is, its tools are hardly missed."""
    if installation.root is None:
        return
    built = installation.llama is not None and not installation.llama.fault
    say = note if built else problem
    missing = [name for name, path in installation.tools.items() if path is None]
    if missing:
        packages = " ".join(_PACKAGES.get(name, name) for name in missing)
        yield say(
            f"{' and '.join(missing)} missing, to build llama.cpp with",
            f"sudo apt install {packages}",
        )
    version = installation.cmake_version
    if version is not None and version < MINIMUM_CMAKE:
        text = ".".join(map(str, version))
        yield say(f"cmake {text} is too old; llama.cpp needs 3.21", "sudo apt install cmake")
    if not missing:
        yield ok("compilers and cmake are there")


def check_llama(installation: Installation) -> Iterator[Finding]:
    """Whether llama.cpp can be used, and is built for this computer."""
    llama = installation.llama
    if llama is None:
        if installation.answers:
            yield warning(
                "importing llama_cpp takes very long", "ask again when there is less load"
            )
        return
    if llama.fault:
        mend = _SETUP
        if "illegal" in llama.fault:
            mend = "it was built for another processor: rm -rf .venv && make setup"
        yield problem(f"llama_cpp cannot be used: {llama.fault}", mend)
        return
    features = ", ".join(sorted(llama.features & _FEATURE_NEEDS.keys())) or "no CPU features"
    yield ok(f"llama_cpp {llama.version} for {', '.join(llama.backends)} with {features}")
    if installation.has_gpu and set(llama.backends) == {"CPU"}:
        yield warning(
            "there is an NVIDIA GPU, but llama.cpp is built for the CPU alone",
            "CARAVAN_CMAKE_ARGS=-DGGML_CUDA=on make setup",
        )
    has = installation.cpu_features
    if has is not None and "avx2" in has and "AVX2" not in llama.features:
        yield warning(
            "llama.cpp is built without AVX2, which this processor has",
            "rm -rf .venv && make setup",
        )


def check_versions(installation: Installation) -> Iterator[Finding]:
    """Whether Caravan's parts belong together, and the packages are the pinned ones."""
    if not installation.answers:
        return
    own = {n: v for n, v in installation.versions.items() if n.startswith(_OWN_PREFIX)}
    odd = {name: version for name, version in own.items() if version != own.get(_CLIENT, version)}
    if odd:
        listed = ", ".join(f"{name} {version}" for name, version in sorted(odd.items()))
        yield problem(f"parts of different versions: {listed}; the client {own[_CLIENT]}", _SETUP)
    elif own:
        yield ok(f"{len(own)} parts of Caravan, version {next(iter(own.values()))}")
    yield from _check_locked(installation)


def _check_locked(installation: Installation) -> Iterator[Finding]:
    if not installation.locked:
        return
    differing = []
    for name, pinned in sorted(installation.locked.items()):
        found = installation.versions.get(name)
        if found is None and name not in installation.conditional:
            differing.append(f"{name} is missing")
        elif found is not None and found not in pinned:
            differing.append(f"{name} is {found} instead of {' or '.join(sorted(pinned))}")
    if differing:
        more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        yield warning(
            f"not as requirements.lock says: {'; '.join(differing[:_SHOWN])}{more}", _SETUP
        )
    else:
        yield ok(f"{len(installation.locked)} packages are as requirements.lock says")


def check_settings(installation: Installation) -> Iterator[Finding]:
    """Whether the services would start with the settings as they are here."""
    for fault in installation.settings_faults:
        yield problem(fault, "mend the setting, or unset it")
    if installation.answers and not installation.settings_faults:
        folder = f" ({shlex.quote(str(installation.root))})" if installation.root else ""
        yield ok(f"settings are valid{folder}")
