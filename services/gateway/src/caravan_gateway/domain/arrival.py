"""A new call for which no worker is there waits for one that is known to come."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from caravan_gateway.domain.affinity import InputMarks
from caravan_gateway.domain.errors import (
    DependencyUnavailableError,
    GatewayError,
    ModelLoadingError,
    WorkerDiedError,
)
from caravan_gateway.domain.routing import Lease, Router

_EXPECTED = (
    WorkerDiedError,  # it is being restarted, or rests after a broken stream
    ModelLoadingError,
    DependencyUnavailableError,  # the host is away, and its workers come back with it
)


@dataclass(frozen=True, slots=True)
class ArrivalRules:
    """How long a new call waits for a worker, and how often it looks for one."""

    timeout_s: float = 10.0  # 0: not at all
    first_pause_s: float = 0.01
    max_pause_s: float = 0.2


class Arrivals:
    """Leases workers to new calls. Owned by the event loop; each wait by the call's own task.

    Nobody is queued here: whoever looks first when a worker is there has it, as with calls that
    come just then. The order is the worker's business. Deadlines end a wait from outside.
    """

    def __init__(
        self,
        router: Router,
        rules: ArrivalRules,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[object]],
    ) -> None:
        self._router = router
        self._rules = rules
        self._clock = clock
        self._sleep = sleep
        self._num_waiting = 0

    @property
    def num_waiting(self) -> int:
        """Calls that wait for a worker now."""
        return self._num_waiting

    async def lease(self, model: str, marks: InputMarks | None = None) -> Lease:
        """Claims a worker of `model`, a resolved name, as soon as there is one.

        Args:
            model: what to run.
            marks: of the input, if it matters who has its beginning.

        Raises:
            GatewayError: why no worker takes the call, and probably none will soon.
        """
        began_s, pause_s = self._clock(), self._rules.first_pause_s
        self._num_waiting += 1
        try:
            while True:
                try:
                    return self._router.lease(model, marks=marks)
                except _EXPECTED as reason:
                    self._give_up_late(reason, self._clock() - began_s)
                await self._sleep(pause_s)
                pause_s = min(2 * pause_s, self._rules.max_pause_s)
        finally:
            self._num_waiting -= 1

    def _give_up_late(self, reason: GatewayError, waited_s: float) -> None:
        if waited_s >= self._rules.timeout_s:
            raise reason
