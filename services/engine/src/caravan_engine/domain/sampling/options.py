"""What a request says about choosing tokens, and the keyed draws behind it.

Owns the bounds and defaults, not the arithmetic on logits (`token_sampler`).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from caravan_engine.domain.errors import InvalidFieldError
from caravan_rpckit.errors import FieldViolation

MAX_CANDIDATES = 1024
"""Full-vocabulary sampling first keeps this many best logits (documented in the API)."""

MAX_PENALTY_LAST_N = 8192
MAX_LOGIT_BIASES = 1024
MAX_SEQUENCE_BREAKERS = 16
MAX_SEQUENCE_BREAKER_BYTES = 40

_MASK64 = 0xFFFF_FFFF_FFFF_FFFF
_GOLDEN_GAMMA = 0x9E37_79B9_7F4A_7C15


@dataclass(frozen=True, slots=True, kw_only=True)
class DryOptions:
    """Penalty for repeated sequences: multiplier * base ** (length - allowed_length)."""

    multiplier: float = 0.0  # 0: off
    base: float = 1.75
    allowed_length: int = 2
    penalty_last_n: int = 1024  # 0: off
    sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")

    def violations(self) -> Iterator[FieldViolation]:
        """Yields one for each field out of bounds."""
        yield from _outside("dry.multiplier", self.multiplier, 0, 5)
        yield from _outside("dry.base", self.base, 1, 4)
        yield from _outside("dry.allowed_length", self.allowed_length, 0, 100)
        yield from _outside("dry.penalty_last_n", self.penalty_last_n, 0, MAX_PENALTY_LAST_N)
        path, limit = "sampling.dry.sequence_breakers", MAX_SEQUENCE_BREAKER_BYTES
        if len(self.sequence_breakers) > MAX_SEQUENCE_BREAKERS:
            yield FieldViolation(path, f"at most {MAX_SEQUENCE_BREAKERS} texts")
        for index, breaker in enumerate(self.sequence_breakers):
            if not 1 <= len(breaker.encode()) <= limit:
                yield FieldViolation(f"{path}[{index}]", f"must have 1 to {limit} bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class XtcOptions:
    """Now and then all of the most probable tokens but the least of them are dropped."""

    probability: float = 0.0  # 0: off
    threshold: float = 0.1

    def violations(self) -> Iterator[FieldViolation]:
        """Yields one for each field out of bounds."""
        yield from _outside("xtc.probability", self.probability, 0, 1)
        yield from _outside("xtc.threshold", self.threshold, 0, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class MirostatOptions:
    """Mirostat, version 2."""

    tau: float = 5.0  # wanted surprise, bits
    eta: float = 0.1  # learning rate

    def violations(self) -> Iterator[FieldViolation]:
        """Yields one for each field out of bounds."""
        yield from _outside("mirostat.tau", self.tau, 0, 20, above_low=True)
        yield from _outside("mirostat.eta", self.eta, 0, 1, above_low=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How each token is chosen.

    In this order: bias, penalties, DRY, top-k, typical, top-p, min-p, XTC, temperature, draw; or,
    with mirostat: bias, penalties, DRY, temperature, mirostat.

    Raises:
        InvalidFieldError: for every field out of bounds, all at once; llama.cpp itself takes NaN
            and infinities without a word.
    """

    temperature: float = 0.8  # 0: greedy
    top_k: int = 40  # 0: the best MAX_CANDIDATES, which is also the most
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64  # 0: no penalties
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    typical_p: float = 1.0
    dry: DryOptions = DryOptions()
    xtc: XtcOptions = XtcOptions()
    mirostat: MirostatOptions | None = None

    def __post_init__(self) -> None:
        violations = tuple(self._violations())
        if violations:
            raise InvalidFieldError(*violations)

    @property
    def is_greedy(self) -> bool:
        """Whether the best token is taken without a draw."""
        return self.temperature == 0

    @property
    def num_candidates(self) -> int:
        """How many of the best logits take part in a draw."""
        if self.mirostat:
            return MAX_CANDIDATES
        return min(self.top_k or MAX_CANDIDATES, MAX_CANDIDATES)

    @property
    def has_penalties(self) -> bool:
        """Whether any penalty changes a logit."""
        neutral = (
            self.repeat_penalty == 1 and self.frequency_penalty == 0 and self.presence_penalty == 0
        )
        return self.penalty_last_n > 0 and not neutral

    @property
    def has_dry(self) -> bool:
        """Whether repeated sequences are penalised."""
        return self.dry.multiplier > 0 and self.dry.penalty_last_n > 0

    @property
    def has_xtc(self) -> bool:
        """Whether top choices are dropped now and then."""
        return self.xtc.probability > 0 and self.mirostat is None

    def _violations(self) -> Iterator[FieldViolation]:
        yield from _outside("temperature", self.temperature, 0, 5)
        yield from _outside("top_k", self.top_k, 0, 2**31 - 1)
        yield from _outside("top_p", self.top_p, 0, 1, above_low=True)
        yield from _outside("min_p", self.min_p, 0, 1)
        yield from _outside("repeat_penalty", self.repeat_penalty, 0, 10, above_low=True)
        yield from _outside("frequency_penalty", self.frequency_penalty, -2, 2)
        yield from _outside("presence_penalty", self.presence_penalty, -2, 2)
        yield from _outside("penalty_last_n", self.penalty_last_n, 0, MAX_PENALTY_LAST_N)
        yield from _outside("typical_p", self.typical_p, 0, 1, above_low=True)
        yield from self.dry.violations()
        yield from self.xtc.violations()
        if self.mirostat:
            yield from self.mirostat.violations()
        if len(self.logit_bias) > MAX_LOGIT_BIASES:
            yield FieldViolation("sampling.logit_bias", f"at most {MAX_LOGIT_BIASES} entries")
        for token, bias in self.logit_bias.items():
            yield from _outside(f"logit_bias[{token}]", bias, -100, 100)


def _outside(
    name: str, value: float, low: float, high: float, *, above_low: bool = False
) -> Iterator[FieldViolation]:
    inside = math.isfinite(value) and low <= value <= high and not (above_low and value == low)
    if not inside:
        bounds = f"above {low} and at most {high}" if above_low else f"between {low} and {high}"
        yield FieldViolation(f"sampling.{name}", f"must be {bounds}")


def draw_key(seed: int, choice_index: int) -> int:
    """Returns the key of one choice's draws; choice i of a seed is independent of choice j."""
    return _mix(_mix(seed & _MASK64) ^ choice_index)


def keyed_uniform(key: int, position: int, use: int = 0) -> float:
    """Returns a number in [0, 1) that depends on nothing but its arguments.

    So a resumed, replayed or moved sequence repeats its draws, and no generator has to be saved.
    `position` is the index of the token that is being chosen; `use` tells several draws for one
    token apart.

    Source: Steele, Lea and Flood, Fast Splittable Pseudorandom Number Generators (2014),
    section 4 (SplitMix64), used as a hash of the fields in turn instead of as a stream.
    """
    return (_mix(_mix(key ^ position) ^ use) >> 11) * 2.0**-53


def _mix(value: int) -> int:
    value = (value + _GOLDEN_GAMMA) & _MASK64
    value = ((value ^ (value >> 30)) * 0xBF58_476D_1CE4_E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D0_49BB_1331_11EB) & _MASK64
    return value ^ (value >> 31)
