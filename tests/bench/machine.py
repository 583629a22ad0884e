"""The machine that measures: what it is, and whether it did something else meanwhile."""

import platform
import time
from collections.abc import Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import psutil

NOISE_LIMIT = 0.10


def describe() -> str:
    """One line about this machine."""
    memory_gib = psutil.virtual_memory().total / 2**30
    return (
        f"{_cpu_name()}, {psutil.cpu_count()} cores, {memory_gib:.0f} GiB, "
        f"{platform.system()} {platform.release().split('-')[0]}"
    )


@dataclass(slots=True)
class OtherLoad:
    """Share of all cores that went to processes which weren't measured."""

    share: float = 0.0

    @property
    def is_noisy(self) -> bool:
        return self.share > NOISE_LIMIT


@contextmanager
def other_load(pids: Iterable[int]):
    """Measures how much of the machine went to others than `pids`, their children and ourselves."""
    result = OtherLoad()
    watched = _with_children([*pids, psutil.Process().pid])
    busy, ours, started = _busy_s(), _cpu_s(watched), time.perf_counter()
    yield result
    elapsed = (time.perf_counter() - started) * (psutil.cpu_count() or 1)
    others = (_busy_s() - busy) - (_cpu_s(watched) - ours)
    result.share = max(0.0, others / elapsed)


def pss_bytes(pid: int) -> int:
    """Proportional set size of one process."""
    return psutil.Process(pid).memory_full_info().pss


def _with_children(pids: Iterable[int]) -> list[psutil.Process]:
    roots = [psutil.Process(pid) for pid in pids]
    found = {p.pid: p for root in roots for p in (root, *root.children(recursive=True))}
    return list(found.values())


def _busy_s() -> float:
    times = psutil.cpu_times()
    return times.user + times.nice + times.system + times.irq + times.softirq + times.steal


def _cpu_s(processes: Iterable[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # one that ended meanwhile counts as other load
            times = process.cpu_times()
            total += times.user + times.system
    return total


def _cpu_name() -> str:
    with open("/proc/cpuinfo") as lines:  # noqa: PTH123 (a kernel interface, not a path to handle)
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
