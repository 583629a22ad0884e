"""Looks at this computer: /proc and limits. Elsewhere than on Linux much stays unknown."""

import ctypes
import os
import platform
import re
import sys
from pathlib import Path

from caravan_client.cli.doctor.facts import Machine

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")
_TIMEX_BYTES = 512  # more than `struct timex` has on any system
_CLOCK_UNSYNCHRONIZED = 5


def probe_machine() -> Machine:
    """Everything about this computer that a check wants."""
    memory = read_memory(_text(_PROC / "meminfo"))
    return Machine(
        python=sys.version_info[:3],
        architecture=platform.machine(),
        num_cpus=_num_cpus(),
        cpu_features=cpu_features(),
        memory_bytes=memory.get("MemTotal"),
        memory_available_bytes=memory.get("MemAvailable"),
        memory_limit_bytes=_memory_limit(),
        open_files_limit=_open_files_limit(),
        clock_synchronized=_clock_synchronized(),
    )


def cpu_features() -> frozenset[str] | None:
    """What the processor can do; None where there is no /proc/cpuinfo."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", _text(_PROC / "cpuinfo"), re.MULTILINE)
    return frozenset(found[1].split()) if found else None


def read_memory(meminfo: str) -> dict[str, int]:
    """The numbers of /proc/meminfo, in bytes."""
    lines = re.findall(r"^(\w+):\s+(\d+) kB$", meminfo, re.MULTILINE)
    return {name: int(kilobytes) * 1024 for name, kilobytes in lines}


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _num_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_limit() -> int | None:
    """The control group's limit, version 2 or 1; None for none."""
    for path in (_CGROUP / "memory.max", _CGROUP / "memory" / "memory.limit_in_bytes"):
        text = _text(path).strip()
        if text.isdigit() and int(text) < 1 << 60:  # version 1 writes a huge number for none
            return int(text)
    return None


def _open_files_limit() -> int | None:
    try:
        import resource
    except ImportError:  # not a Unix
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _clock_synchronized() -> bool | None:
    """What the kernel says, which whoever sets the clock (chrony, timesyncd, ntpd) tells it."""
    if sys.platform != "linux":
        return None
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _CLOCK_UNSYNCHRONIZED
