"""Checks of this computer."""

from collections.abc import Iterator

from caravan_client.cli.doctor.facts import Machine
from caravan_client.cli.doctor.findings import Finding, note, ok, problem, warning
from caravan_client.cli.quantities import size_text

MINIMUM_PYTHON = (3, 11)
FEW_OPEN_FILES = 1024
LITTLE_MEMORY_BYTES = 1 << 30

_FAST_X86 = ("avx2", "fma", "f16c")
_X86 = ("x86_64", "AMD64", "i686")


def check_python(machine: Machine) -> Iterator[Finding]:
    """Whether this Python can run Caravan."""
    text = ".".join(map(str, machine.python))
    if machine.python < MINIMUM_PYTHON:
        yield problem(f"Python {text} is too old; Caravan needs 3.11", "install Python 3.11")
    else:
        yield ok(f"Python {text}")


def check_cpu(machine: Machine) -> Iterator[Finding]:
    """Whether llama.cpp's fast paths can be used."""
    what = f"{machine.num_cpus} cores, {machine.architecture},"
    if machine.cpu_features is None or machine.architecture not in _X86:
        yield ok(what.removesuffix(","))
        return
    missing = [name for name in _FAST_X86 if name not in machine.cpu_features]
    if missing:
        yield warning(
            f"{what} without {', '.join(missing)}: models run several times slower",
            "on a virtual machine choose the host's CPU type",
        )
    else:
        extras = ", avx512" if "avx512f" in machine.cpu_features else ""
        yield ok(f"{what} with {', '.join(_FAST_X86)}{extras}")


def check_memory(machine: Machine) -> Iterator[Finding]:
    """Whether a model will find room."""
    if machine.memory_bytes is None or machine.memory_available_bytes is None:
        yield note("how much memory there is could not be found out")
        return
    total, free = machine.memory_bytes, machine.memory_available_bytes
    if machine.memory_limit_bytes is not None and machine.memory_limit_bytes < total:
        total = machine.memory_limit_bytes
        free = min(free, total)
        yield note(f"the control group limits memory to {size_text(total)}")
    text = f"{size_text(free)} of {size_text(total)} memory are free"
    if free < LITTLE_MEMORY_BYTES:
        yield warning(f"only {text}", "end other programs, or unload a model")
    else:
        yield ok(text)


def check_open_files(machine: Machine) -> Iterator[Finding]:
    """Whether many clients can connect at once."""
    limit = machine.open_files_limit
    if limit is not None and limit < FEW_OPEN_FILES:
        yield warning(f"at most {limit} files and connections may be open", "ulimit -n 4096")
    elif limit is not None:
        yield ok(f"{limit} files and connections may be open")


def check_clock(machine: Machine) -> Iterator[Finding]:
    """Whether the time is kept; keys and certificates depend on it."""
    if machine.clock_synchronized is False:
        yield note("nothing keeps this computer's clock in step", "timedatectl set-ntp true")
    elif machine.clock_synchronized:
        yield ok("the clock is kept in step")
