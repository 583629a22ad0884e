"""The documented bounds of how tokens are chosen."""

from collections.abc import Mapping

from caravan_gateway.domain.bounds import (
    MAX_VIOLATIONS_PER_FIELD,
    Range,
    Violations,
    range_faults,
    size_faults,
)
from caravan_gateway.domain.generation import Sampling
from caravan_rpckit.errors import FieldViolation

MAX_TOP_K = 1024
MAX_PENALTY_LAST_N = 8192
MAX_LOGIT_BIAS_COUNT = 1024
MAX_LOGIT_BIAS = 100.0
MAX_DRY_BREAKER_COUNT = 16
MAX_DRY_BREAKER_BYTES = 40

_SAMPLING: Mapping[str, Range] = {
    "temperature": Range(0, 5),
    "top_k": Range(0, MAX_TOP_K),
    "top_p": Range(0, 1, low_included=False),
    "min_p": Range(0, 1),
    "repeat_penalty": Range(0, 10, low_included=False),
    "frequency_penalty": Range(-2, 2),
    "presence_penalty": Range(-2, 2),
    "penalty_last_n": Range(0, MAX_PENALTY_LAST_N),
    "typical_p": Range(0, 1, low_included=False),
}
_DRY: Mapping[str, Range] = {
    "multiplier": Range(0, 5),
    "base": Range(1, 4),
    "allowed_length": Range(0, 100),
    "penalty_last_n": Range(0, MAX_PENALTY_LAST_N),
}
_XTC: Mapping[str, Range] = {
    "probability": Range(0, 1),
    "threshold": Range(0, 0.5),
}
_MIROSTAT: Mapping[str, Range] = {
    "tau": Range(0, 20, low_included=False),
    "eta": Range(0, 1, low_included=False),
}
_BIAS = Range(-MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)


def sampling_faults(sampling: Sampling) -> Violations:
    """Names every faulty field with its path in the request."""
    yield from range_faults("sampling", sampling, _SAMPLING)
    yield from range_faults("sampling.dry", sampling.dry, _DRY)
    if sampling.dry is not None:
        yield from size_faults(
            "sampling.dry.sequence_breakers",
            sampling.dry.breaker_sizes,
            MAX_DRY_BREAKER_COUNT,
            MAX_DRY_BREAKER_BYTES,
        )
    yield from range_faults("sampling.xtc", sampling.xtc, _XTC)
    yield from range_faults("sampling.mirostat", sampling.mirostat, _MIROSTAT)
    yield from _bias_faults(sampling.logit_bias)


def _bias_faults(bias: Mapping[int, float]) -> Violations:
    if len(bias) > MAX_LOGIT_BIAS_COUNT:
        yield FieldViolation("sampling.logit_bias", f"must be at most {MAX_LOGIT_BIAS_COUNT}")
    faulty = [token for token, value in bias.items() if not _BIAS.holds(value)]
    for token in sorted(faulty)[:MAX_VIOLATIONS_PER_FIELD]:
        yield FieldViolation(f"sampling.logit_bias[{token}]", str(_BIAS))
