"""Which port and how much memory each worker has. Pure: whether a port is free is asked for."""

from collections.abc import Callable
from dataclasses import dataclass

from caravan_engine.domain.errors import ModelTooLargeError
from caravan_engine.host.errors import NoFreePortError

NUM_WORKER_PORTS = 256


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What a model can't do without, and what it would like to have for pages in host memory."""

    fixed_bytes: int
    host_page_bytes: int = 0


class MemoryBudget:
    """What the loaded models may use together; reserved by plan, before anything is loaded."""

    def __init__(self, total_bytes: int) -> None:
        self._total_bytes = total_bytes
        self._reserved: dict[str, int] = {}

    @property
    def free_bytes(self) -> int:
        """What is not reserved."""
        return self._total_bytes - sum(self._reserved.values())

    def reserve(self, model: str, need: MemoryNeed) -> int:
        """Reserves memory for `model`, replacing what it had, and returns the bytes for pages.

        Pages give way to models: they get at most half of what this model leaves, so that models
        still to come find room.

        Raises:
            ModelTooLargeError: what it can't do without is not left; what it had stays.
        """
        free_bytes = self.free_bytes + self._reserved.get(model, 0)
        if need.fixed_bytes > free_bytes:
            raise ModelTooLargeError(needed_bytes=need.fixed_bytes, budget_bytes=free_bytes)
        page_bytes = min(need.host_page_bytes, (free_bytes - need.fixed_bytes) // 2)
        self._reserved[model] = need.fixed_bytes + page_bytes
        return page_bytes

    def release(self, model: str) -> None:
        """Gives back what `model` reserved; nothing happens when it had none."""
        self._reserved.pop(model, None)


class WorkerPorts:
    """Hands out ports from a base upwards; a base of 0 lets each worker take any free one."""

    def __init__(self, base: int, is_free: Callable[[int], bool]) -> None:
        self._base = base
        self._is_free = is_free
        self._taken: dict[str, int] = {}

    def take(self, holder: str) -> int:
        """Returns the port of `holder`: the one it had, if still free, or the lowest free one.

        Raises:
            NoFreePortError: none of the range is free.
        """
        if self._base == 0:
            return 0
        previous = self._taken.pop(holder, None)
        last = min(self._base + NUM_WORKER_PORTS, 65536) - 1
        candidates = list(range(self._base, last + 1))
        for port in candidates if previous is None else [previous, *candidates]:
            if port not in self._taken.values() and self._is_free(port):
                self._taken[holder] = port
                return port
        raise NoFreePortError(self._base, last)

    def give_back(self, holder: str) -> None:
        """Frees the port of `holder`, if it has one."""
        self._taken.pop(holder, None)
