"""What this machine, or the container we are in, may use: processors and memory."""

import os
import socket
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_NO_LIMIT_BYTES = 2**60


def num_usable_cores() -> int:
    """Processors this process may run on, at most what its control group's quota pays for."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = _cpu_quota()
    return max(1, cores if quota is None else min(cores, int(quota + 0.5)))


def available_memory_bytes() -> int:
    """Memory that can be taken without pushing others out, within the control group's limit."""
    return min([_free_memory_bytes(), *_cgroup_limits_bytes()])


def memory_pressure() -> float:
    """Share of the machine's memory that can't be taken without pushing others out, 0 to 1."""
    total_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min(1.0, max(0.0, 1 - _free_memory_bytes() / total_bytes))


def port_is_free(host: str, port: int) -> bool:
    """Whether a server could listen on host:port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _cpu_quota() -> float | None:
    """Cores paid for by the control group (version 2, then 1), or None without a limit."""
    words = _words(_CGROUP / "cpu.max")
    if len(words) != 2:
        words = _words(_CGROUP / "cpu/cpu.cfs_quota_us") + _words(_CGROUP / "cpu/cpu.cfs_period_us")
    numbers = [int(word) for word in words if word.isdecimal()]
    if len(numbers) != 2 or numbers[1] == 0:
        return None
    return numbers[0] / numbers[1]


def _cgroup_limits_bytes() -> list[int]:
    """The control group's memory limit (version 2, then 1); empty without one."""
    files = (_CGROUP / "memory.max", _CGROUP / "memory/memory.limit_in_bytes")
    limits = [_number(file) for file in files]
    return [limit for limit in limits if limit is not None and limit < _NO_LIMIT_BYTES]


def _free_memory_bytes() -> int:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _number(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if words and words[0].isdecimal() else None


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
