"""What validation is made of: ranges, sizes, and how their violations are told.

Values are never repeated in a description: somebody may have put a secret into the wrong field.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from caravan_rpckit.errors import FieldViolation

# More of one kind are not listed: the first ones tell enough.
MAX_VIOLATIONS_PER_FIELD = 16

Violations = Iterator[FieldViolation]


@dataclass(frozen=True, slots=True)
class Range:
    """Finite numbers from `low` to `high`, `low` itself only where it is included."""

    low: float
    high: float
    low_included: bool = True

    def holds(self, value: float) -> bool:
        """Whether `value` is allowed."""
        if not math.isfinite(value):
            return False
        above = value >= self.low if self.low_included else value > self.low
        return above and value <= self.high

    def __str__(self) -> str:
        low = f"{self.low:g}" if self.low_included else f"above {self.low:g}"
        return f"must be a finite number from {low} to {self.high:g}"


def range_faults(path: str, options: object, ranges: Mapping[str, Range]) -> Violations:
    """Judges the attributes of `options` that are named in `ranges`; None is no value."""
    for name, allowed in ranges.items():
        value: float | None = getattr(options, name, None)
        if value is not None and not allowed.holds(value):
            yield FieldViolation(f"{path}.{name}", str(allowed))


def size_faults(path: str, sizes: Sequence[int], max_count: int, max_bytes: int) -> Violations:
    """Judges a list of texts, none of them empty, by their sizes in bytes."""
    if len(sizes) > max_count:
        yield FieldViolation(path, f"must be at most {max_count}")
    faulty = [index for index, size in enumerate(sizes) if not 1 <= size <= max_bytes]
    for index in faulty[:MAX_VIOLATIONS_PER_FIELD]:
        yield FieldViolation(f"{path}[{index}]", f"must have 1 to {max_bytes} bytes")
