from dataclasses import replace

import pytest

from caravan_client.cli.doctor import machine_checks as checks
from caravan_client.cli.doctor.facts import Machine
from caravan_client.cli.doctor.findings import Severity
from caravan_client.cli.doctor.machine_probe import probe_machine, read_memory

GOOD = Machine(
    python=(3, 12, 1),
    architecture="x86_64",
    num_cpus=4,
    cpu_features=frozenset({"avx2", "fma", "f16c", "avx512f"}),
    memory_bytes=16 << 30,
    memory_available_bytes=8 << 30,
    open_files_limit=4096,
    clock_synchronized=True,
)
ALL = (
    checks.check_python,
    checks.check_cpu,
    checks.check_memory,
    checks.check_open_files,
    checks.check_clock,
)


def severities(check, machine: Machine) -> list[Severity]:
    return [finding.severity for finding in check(machine)]


@pytest.mark.parametrize("check", ALL)
def test_good_machine_is_fine(check):
    assert severities(check, GOOD) == [Severity.OK]


@pytest.mark.parametrize(
    ("check", "change", "severity"),
    [
        (checks.check_python, {"python": (3, 10, 9)}, Severity.PROBLEM),
        (checks.check_cpu, {"cpu_features": frozenset({"avx"})}, Severity.WARNING),
        (checks.check_memory, {"memory_available_bytes": 1 << 20}, Severity.WARNING),
        (checks.check_memory, {"memory_bytes": None}, Severity.NOTE),
        (checks.check_open_files, {"open_files_limit": 256}, Severity.WARNING),
        (checks.check_clock, {"clock_synchronized": False}, Severity.NOTE),
    ],
)
def test_what_is_wrong_is_told_with_what_mends_it(check, change, severity):
    (finding,) = check(replace(GOOD, **change))
    assert finding.severity is severity
    assert finding.mend or severity is Severity.NOTE


def test_limit_of_the_control_group_counts():
    low = replace(GOOD, memory_limit_bytes=512 << 20)
    assert severities(checks.check_memory, low) == [Severity.NOTE, Severity.WARNING]


@pytest.mark.parametrize("check", ALL)
def test_what_could_not_be_found_out_is_no_fault(check):
    bare = Machine(python=(3, 11, 0), architecture="riscv64", num_cpus=1)
    assert not {Severity.PROBLEM, Severity.WARNING} & set(severities(check, bare))


def test_memory_is_read_in_bytes():
    text = "MemTotal:       16384 kB\nMemAvailable:    1024 kB\nHugePages_Total:       0\n"
    assert read_memory(text) == {"MemTotal": 16384 * 1024, "MemAvailable": 1024 * 1024}


def test_this_machine_can_be_probed():
    assert probe_machine().num_cpus >= 1
