"""Where the decode thread's time comes from, and where measurements of it go."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from caravan_engine.domain.scheduling.rates import StepRates


@dataclass(frozen=True, slots=True)
class Timing:
    """A clock, and what was measured by it."""

    clock: Callable[[], float] = time.monotonic  # monotonic seconds
    rates: StepRates = field(default_factory=StepRates)
