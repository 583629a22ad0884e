"""When a request would be done, from measured rates and the work ahead of it. Pure arithmetic."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from caravan_engine.domain.scheduling.rates import Rates


@dataclass(frozen=True, slots=True)
class Work:
    """What is left to do of one sequence, in tokens."""

    input_tokens: float
    output_tokens: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds until a request is done."""

    wait_s: float  # until it has seats, and everybody ahead has computed their input
    prefill_s: float
    decode_s: float

    @property
    def total_s(self) -> float:
        """From now to the last token."""
        return self.wait_s + self.prefill_s + self.decode_s


def forecast(
    own: Sequence[Work],
    ahead: Sequence[Work],
    *,
    rates: Rates,
    num_seats: int,
) -> Forecast:
    """Foresees a request: its sequences `own`, after those that run and wait `ahead` of it.

    It errs towards early: if nobody comes later, cells never lack, and each sequence needs the
    tokens that it is said to need, no schedule is faster.

    - It gets its seats when enough of the others have ended. Those are at best the shortest; they
      need at least as many steps as the longest of them, and as all of them at a token per seat.
    - Input is computed in the order of admission, so that of all others comes first.
    - Its own tokens come a step each, with as many companions as will be left on average.
    """
    outputs = [each.output_tokens for each in ahead]
    num_steps = _steps_until_seated(outputs, num_seats, len(own))
    token_s = rates.prefill_token_s or 0.0
    input_s = sum(each.input_tokens for each in ahead) * token_s
    longest = max((each.output_tokens for each in own), default=0.0)
    decode_s = 0.0
    if longest:
        left = (min(1.0, max(0.0, each - num_steps) / longest) for each in outputs)
        companions = min(float(num_seats), len(own) + sum(left))
        decode_s = longest * (rates.decode_s(companions) or 0.0)
    return Forecast(
        wait_s=input_s + num_steps * (rates.decode_s(num_seats) or 0.0 if num_steps else 0.0),
        prefill_s=sum(each.input_tokens for each in own) * token_s,
        decode_s=decode_s,
    )


def _steps_until_seated(outputs: Sequence[float], num_seats: int, num_own: int) -> float:
    num_departures = len(outputs) + num_own - num_seats
    if num_departures <= 0:
        return 0.0
    first = heapq.nsmallest(num_departures, outputs)
    return max(first[-1], sum(first) / num_seats)
