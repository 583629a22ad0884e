from dataclasses import replace
from pathlib import Path

import pytest

from caravan_client.cli.doctor import installation_checks as checks
from caravan_client.cli.doctor.bounded import Ended
from caravan_client.cli.doctor.facts import Installation, Llama
from caravan_client.cli.doctor.findings import Severity
from caravan_client.cli.doctor.installation_probe import (
    find_checkout,
    probe_installation,
    read_cmake_version,
    read_llama,
    read_lock,
    read_settings_faults,
)

GOOD = Installation(
    root=Path("/src/caravan"),
    python=Path("/src/caravan/.venv/bin/python"),
    has_python=True,
    answers=True,
    versions={"caravan-client": "1.0", "caravan-engine": "1.0", "grpcio": "1.85.1"},
    locked={"grpcio": frozenset({"1.85.1"}), "colorama": frozenset({"0.4"})},
    conditional=frozenset({"colorama"}),
    llama=Llama("0.3.36", frozenset({"AVX2", "FMA"})),
    tools={
        "a C compiler": "/usr/bin/cc",
        "a C++ compiler": "/usr/bin/c++",
        "cmake": "/usr/bin/cmake",
    },
    cmake_version=(3, 31),
    cpu_features=frozenset({"avx2"}),
)
BROKEN_LLAMA = Llama(fault="No module named 'llama_cpp'")


def severities(check, installation: Installation) -> list[Severity]:
    return [finding.severity for finding in check(installation)]


@pytest.mark.parametrize(
    "check",
    [
        checks.check_environment,
        checks.check_tools,
        checks.check_llama,
        checks.check_versions,
        checks.check_settings,
    ],
)
def test_good_installation_is_fine(check):
    assert set(severities(check, GOOD)) == {Severity.OK}


@pytest.mark.parametrize(
    ("check", "change", "severity", "words"),
    [
        (checks.check_environment, {"has_python": False}, Severity.PROBLEM, "make setup"),
        (checks.check_environment, {"answers": False}, Severity.WARNING, "make setup"),
        (
            checks.check_tools,
            {"tools": {"a C++ compiler": None}, "llama": None},
            Severity.PROBLEM,
            "apt install g++",
        ),
        (checks.check_tools, {"tools": {"cmake": None}}, Severity.NOTE, "apt install cmake"),
        (checks.check_tools, {"cmake_version": (3, 10)}, Severity.NOTE, "cmake"),
        (checks.check_llama, {"llama": BROKEN_LLAMA}, Severity.PROBLEM, "make setup"),
        (checks.check_llama, {"llama": None}, Severity.WARNING, "load"),
        (checks.check_llama, {"has_gpu": True}, Severity.WARNING, "GGML_CUDA=on make setup"),
        (checks.check_llama, {"llama": Llama("1")}, Severity.WARNING, "make setup"),
        (
            checks.check_versions,
            {"versions": {**GOOD.versions, "caravan-engine": "2.0"}},
            Severity.PROBLEM,
            "make setup",
        ),
        (
            checks.check_versions,
            {"versions": {**GOOD.versions, "grpcio": "1.0"}},
            Severity.WARNING,
            "make setup",
        ),
        (
            checks.check_settings,
            {"settings_faults": ("policy: server.port: given 'x'",)},
            Severity.PROBLEM,
            "setting",
        ),
    ],
)
def test_what_is_wrong_is_told_with_what_mends_it(check, change, severity, words):
    found = [one for one in check(replace(GOOD, **change)) if one.severity is not Severity.OK]
    assert [one.severity for one in found] == [severity]
    assert words in found[0].mend


def test_llama_for_another_processor_is_recognised():
    llama = read_llama(Ended(-4, "", ""))
    (finding,) = checks.check_llama(replace(GOOD, llama=llama))
    assert "illegal instruction" in finding.text
    assert "another processor" in finding.mend


def test_build_of_llama_is_read_from_what_it_prints():
    system = "CUDA : ARCHS = 900 | CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | "
    answer = (
        f'ggml: noise\ncaravan-doctor:{{"version": "0.3", "system": "{system}", "gpu": true}}\n'
    )
    llama = read_llama(Ended(0, answer, ""))
    assert llama is not None
    assert (llama.version, llama.backends) == ("0.3", ("CUDA", "CPU"))
    assert llama.features >= {"SSE3", "AVX2"}
    assert "AVX512" not in llama.features


def test_import_that_fails_is_told_by_its_last_line():
    llama = read_llama(Ended(1, "", "Traceback\nOSError: libomp.so is missing\n"))
    assert llama is not None
    assert llama.fault == "OSError: libomp.so is missing"
    assert read_llama(None) is None


def test_lock_knows_versions_for_several_platforms():
    lock = (
        "# inputs sha256:x\nnumpy==2.4.6 ; python_full_version < '3.12' \\\n    --hash=sha256:aa\n"
        "numpy==2.5.5 ; python_full_version >= '3.12' \\\n    --hash=sha256:bb\n"
        "typing_extensions==4.16.0 \\\n    --hash=sha256:cc\n"
    )
    versions, conditional = read_lock(lock)
    assert versions["numpy"] == {"2.4.6", "2.5.5"}
    assert versions["typing-extensions"] == {"4.16.0"}
    assert conditional == {"numpy"}


def test_faults_of_settings_are_those_of_status_2():
    assert read_settings_faults(Ended(2, "", "a: b\nc: d\n")) == ("a: b", "c: d")
    assert read_settings_faults(Ended(1, "", "Traceback")) == ()
    assert read_settings_faults(None) == ()


def test_cmake_version_is_read():
    assert read_cmake_version(Ended(0, "cmake version 3.25.1\n\nCMake suite", "")) == (3, 25)
    assert read_cmake_version(None) is None


def test_checkout_is_found_from_within(tmp_path):
    (tmp_path / "services" / "engine").mkdir(parents=True)
    (tmp_path / "services" / "engine" / "pyproject.toml").touch()
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert find_checkout(tmp_path / "a" / "b") == tmp_path
    assert find_checkout(Path("/")) is None


def test_checkout_without_an_environment_is_not_asked(tmp_path):
    installation = probe_installation(tmp_path)
    assert not installation.has_python
    assert severities(checks.check_environment, installation) == [Severity.PROBLEM]
