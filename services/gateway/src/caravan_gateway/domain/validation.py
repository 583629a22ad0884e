"""The documented bounds of a request; every violation is reported at once.

Values are never repeated in a description: somebody may have put a secret into the wrong field.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from caravan_gateway.domain.errors import EmptyInputError, InvalidFieldsError
from caravan_gateway.domain.generation import (
    ChatInput,
    Dry,
    GenerationSpec,
    Mirostat,
    Sampling,
    TextInput,
    TokenInput,
    Xtc,
)
from caravan_rpckit.errors import FieldViolation

MAX_MODEL_NAME_BYTES = 255
MAX_STOP_COUNT = 16
MAX_STOP_BYTES = 256
MAX_CHAT_MESSAGES = 1024
MAX_TOP_K = 1024
MAX_PENALTY_LAST_N = 8192
MAX_LOGIT_BIAS_COUNT = 1024
MAX_LOGIT_BIAS = 100.0
MAX_DRY_BREAKER_COUNT = 16
MAX_DRY_BREAKER_BYTES = 40
MAX_CHOICE_COUNT = 16
MAX_LOGPROB_TOP_COUNT = 20
MAX_PRIORITY = 100
MAX_LABEL_COUNT = 16
MAX_LABEL_KEY_BYTES = 63
MAX_LABEL_VALUE_BYTES = 255
# More of one kind are not listed: the first ones tell enough.
MAX_VIOLATIONS_PER_FIELD = 16

Violations = Iterator[FieldViolation]


@dataclass(frozen=True, slots=True)
class _Range:
    low: float
    high: float
    low_included: bool = True

    def holds(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        above = value >= self.low if self.low_included else value > self.low
        return above and value <= self.high

    def __str__(self) -> str:
        low = f"{self.low:g}" if self.low_included else f"above {self.low:g}"
        return f"must be a finite number from {low} to {self.high:g}"


_SAMPLING_RANGES: Mapping[str, _Range] = {
    "temperature": _Range(0, 5),
    "top_k": _Range(0, MAX_TOP_K),
    "top_p": _Range(0, 1, low_included=False),
    "min_p": _Range(0, 1),
    "repeat_penalty": _Range(0, 10, low_included=False),
    "frequency_penalty": _Range(-2, 2),
    "presence_penalty": _Range(-2, 2),
    "penalty_last_n": _Range(0, MAX_PENALTY_LAST_N),
    "typical_p": _Range(0, 1, low_included=False),
}
_DRY_RANGES: Mapping[str, _Range] = {
    "multiplier": _Range(0, 5),
    "base": _Range(1, 4),
    "allowed_length": _Range(0, 100),
    "penalty_last_n": _Range(0, MAX_PENALTY_LAST_N),
}
_XTC_RANGES: Mapping[str, _Range] = {
    "probability": _Range(0, 1),
    "threshold": _Range(0, 0.5),
}
_MIROSTAT_RANGES: Mapping[str, _Range] = {
    "tau": _Range(0, 20, low_included=False),
    "eta": _Range(0, 1, low_included=False),
}
_BIAS_RANGE = _Range(-MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)


def validate(spec: GenerationSpec) -> None:
    """Returns when everything that the gateway can judge is in order.

    Raises:
        EmptyInputError: the only fault is that there is nothing to continue.
        InvalidFieldsError: names each faulty field with its path.
    """
    emptiness = list(_emptiness(spec))
    faults = list(_faults(spec))
    if faults:
        raise InvalidFieldsError([*emptiness, *faults])
    if emptiness:
        raise EmptyInputError(emptiness)


def _emptiness(spec: GenerationSpec) -> Violations:
    match spec.input:
        case TextInput(length=0):
            yield FieldViolation("text", "must not be empty")
        case TokenInput(count=0):
            yield FieldViolation("token_ids.ids", "must not be empty")
        case ChatInput(known_roles=()):
            yield FieldViolation("chat.messages", "must not be empty")
        case _:
            return


def _faults(spec: GenerationSpec) -> Violations:
    if not 1 <= len(spec.model.encode()) <= MAX_MODEL_NAME_BYTES:
        yield FieldViolation("model", f"must have 1 to {MAX_MODEL_NAME_BYTES} bytes")
    yield from _input_faults(spec)
    yield from _sampling_faults(spec.sampling)
    yield from _size_faults("stop", spec.stop_sizes, MAX_STOP_COUNT, MAX_STOP_BYTES)
    yield from _count_faults(spec)
    yield from _label_faults(spec.labels)


def _count_faults(spec: GenerationSpec) -> Violations:
    if spec.max_output_tokens is not None and spec.max_output_tokens < 1:
        yield FieldViolation("max_output_tokens", "must be at least 1")
    if spec.choice_count is not None and not 1 <= spec.choice_count <= MAX_CHOICE_COUNT:
        yield FieldViolation("choice_count", f"must be 1 to {MAX_CHOICE_COUNT}")
    if spec.logprob_top_count is not None and spec.logprob_top_count > MAX_LOGPROB_TOP_COUNT:
        yield FieldViolation("logprobs.top_count", f"must be 0 to {MAX_LOGPROB_TOP_COUNT}")
    if spec.priority is not None and spec.priority > MAX_PRIORITY:
        yield FieldViolation("priority", f"must be 0 to {MAX_PRIORITY}")


def _input_faults(spec: GenerationSpec) -> Violations:
    if spec.input is None:
        yield FieldViolation("input", "set one of text, token_ids and chat")
    if not isinstance(spec.input, ChatInput):
        return
    roles = spec.input.known_roles
    if len(roles) > MAX_CHAT_MESSAGES:
        yield FieldViolation("chat.messages", f"must be at most {MAX_CHAT_MESSAGES}")
    unknown = [index for index, known in enumerate(roles) if not known]
    for index in unknown[:MAX_VIOLATIONS_PER_FIELD]:
        yield FieldViolation(f"chat.messages[{index}].role", "must be a known role")


def _sampling_faults(sampling: Sampling) -> Violations:
    yield from _range_faults("sampling", sampling, _SAMPLING_RANGES)
    yield from _range_faults("sampling.dry", sampling.dry, _DRY_RANGES)
    if sampling.dry is not None:
        yield from _size_faults(
            "sampling.dry.sequence_breakers",
            sampling.dry.breaker_sizes,
            MAX_DRY_BREAKER_COUNT,
            MAX_DRY_BREAKER_BYTES,
        )
    yield from _range_faults("sampling.xtc", sampling.xtc, _XTC_RANGES)
    yield from _range_faults("sampling.mirostat", sampling.mirostat, _MIROSTAT_RANGES)
    yield from _bias_faults(sampling)


def _range_faults(
    path: str,
    options: Sampling | Dry | Xtc | Mirostat | None,
    ranges: Mapping[str, _Range],
) -> Violations:
    for name, allowed in ranges.items():
        value: float | None = getattr(options, name, None)
        if value is not None and not allowed.holds(value):
            yield FieldViolation(f"{path}.{name}", str(allowed))


def _bias_faults(sampling: Sampling) -> Violations:
    bias = sampling.logit_bias
    if len(bias) > MAX_LOGIT_BIAS_COUNT:
        yield FieldViolation("sampling.logit_bias", f"must be at most {MAX_LOGIT_BIAS_COUNT}")
    faulty = [token for token, value in bias.items() if not _BIAS_RANGE.holds(value)]
    for token in sorted(faulty)[:MAX_VIOLATIONS_PER_FIELD]:
        yield FieldViolation(f"sampling.logit_bias[{token}]", str(_BIAS_RANGE))


def _size_faults(path: str, sizes: Sequence[int], max_count: int, max_bytes: int) -> Violations:
    if len(sizes) > max_count:
        yield FieldViolation(path, f"must be at most {max_count}")
    faulty = [index for index, size in enumerate(sizes) if not 1 <= size <= max_bytes]
    for index in faulty[:MAX_VIOLATIONS_PER_FIELD]:
        yield FieldViolation(f"{path}[{index}]", f"must have 1 to {max_bytes} bytes")


def _label_faults(labels: Mapping[str, str]) -> Violations:
    if len(labels) > MAX_LABEL_COUNT:
        yield FieldViolation("labels", f"must be at most {MAX_LABEL_COUNT}")
    if any(not 1 <= len(key.encode()) <= MAX_LABEL_KEY_BYTES for key in labels):
        yield FieldViolation("labels", f"keys must have 1 to {MAX_LABEL_KEY_BYTES} bytes")
    if any(len(value.encode()) > MAX_LABEL_VALUE_BYTES for value in labels.values()):
        yield FieldViolation("labels", f"values must have at most {MAX_LABEL_VALUE_BYTES} bytes")
