"""What a run measured: the arithmetic from arrivals of tokens to figures. No clock, no servers."""

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class CallRecord:
    """One call as its client saw it; times are seconds from the start of the run."""

    started: float
    wanted_tokens: int
    is_watched: bool = True
    arrivals: list[float] = field(default_factory=list)  # of one or more tokens each
    num_tokens: int = 0
    error: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether the client got what it asked for."""
        return self.error is None and self.num_tokens == self.wanted_tokens

    @property
    def ttft_s(self) -> float | None:
        """Seconds from the call to its first token, if there was one."""
        return self.arrivals[0] - self.started if self.arrivals else None

    @property
    def longest_gap_s(self) -> float:
        """Most seconds between two arrivals; 0 without."""
        pairs = zip(self.arrivals, self.arrivals[1:], strict=False)
        return max((later - earlier for earlier, later in pairs), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a workload. Times to the first token are None when no call got one."""

    tokens_per_s: float
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    longest_gap_s: float
    wall_s: float
    num_calls: int
    num_completed: int
    tokens_by_call: list[int]
    failures: dict[str, int]  # how often each

    @property
    def least_tokens(self) -> int:
        """Tokens of the call that got the fewest."""
        return min(self.tokens_by_call)

    @property
    def most_tokens(self) -> int:
        """Tokens of the call that got the most."""
        return max(self.tokens_by_call)


def summary(records: Sequence[CallRecord], num_calls: int, wall_s: float) -> Run:
    """Summarizes a run.

    Args:
        records: Of the calls that were made; clients leave after a call that failed.
        num_calls: How many the workload has.
        wall_s: From the start until the last client left.
    """
    ttfts = [each.ttft_s for each in records if each.ttft_s is not None]
    tokens = [each.num_tokens for each in records]
    return Run(
        tokens_per_s=sum(tokens) / wall_s,
        ttft_p50_s=statistics.median(ttfts) if ttfts else None,
        ttft_p95_s=percentile(ttfts, 95) if ttfts else None,
        longest_gap_s=max((each.longest_gap_s for each in records if each.is_watched), default=0.0),
        wall_s=wall_s,
        num_calls=num_calls,
        num_completed=sum(each.is_complete for each in records),
        tokens_by_call=tokens,
        failures=dict(Counter(each.error for each in records if each.error is not None)),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """Returns the smallest value that at least `percent` of them don't exceed (nearest rank)."""
    rank = max(1, math.ceil(len(values) * percent / 100))
    return sorted(values)[rank - 1]
