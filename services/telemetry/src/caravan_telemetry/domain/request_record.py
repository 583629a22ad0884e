"""The record of one finished call, and what a valid one is."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from caravan_rpckit.errors import FieldViolation
from caravan_telemetry.domain.errors import InvalidFieldsError

MAX_BATCH_RECORDS = 500
MAX_STATUS_CODE = 16
_MAX_TIME_MS = 253_402_300_799_999  # the last moment of the year 9999
_MAX_TEXT_LENGTH = 256
_MAX_FINISH_REASONS = 128
_MAX_LABELS = 16
_MAX_LABEL_KEY_BYTES = 63
_MAX_LABEL_VALUE_BYTES = 255

_REQUIRED_TEXTS = ("id", "request_id", "method")
_OPTIONAL_TEXTS = (
    *("tenant", "principal", "key_id", "model", "model_digest", "error_reason", "gateway_id"),
)
_DURATIONS = ("duration_ms", "time_to_first_token_ms", "queue_ms")


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One finished call, well or badly; holds nothing of prompt or answer.

    Times are milliseconds since 1970 (UTC); 0 says that the sender gave none.
    """

    id: str
    request_id: str
    tenant: str
    principal: str
    key_id: str
    method: str
    model: str
    model_digest: str
    status_code: int
    error_reason: str
    finish_reasons: tuple[str, ...]
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    start_time_ms: int
    duration_ms: float
    time_to_first_token_ms: float | None
    queue_ms: float
    priority: int
    labels: Mapping[str, str]
    gateway_id: str
    failover_count: int
    is_provisional: bool = False


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """The tokens of a record."""

    input: int
    cached: int
    output: int


def supersedes(new: RequestRecord, output_tokens: int) -> bool:
    """Whether a record replaces a provisional one with so many output tokens.

    An engine's account of a generation may come before its gateway's record, and several workers
    may have had it, each one longer than the one before.
    """
    return not new.is_provisional or new.output_tokens > output_tokens


def check_batch(records: Sequence[RequestRecord]) -> None:
    """Refuses the whole batch for any fault in it.

    Raises:
        InvalidFieldsError: names faults with the position of their record, so that the sender
            can put exactly those aside and send the rest again.
    """
    if len(records) > MAX_BATCH_RECORDS:
        limit = FieldViolation("records", f"at most {MAX_BATCH_RECORDS} are allowed")
        raise InvalidFieldsError([limit])
    faults = [
        FieldViolation(f"records[{position}].{fault.field}", fault.description)
        for position, record in enumerate(records)
        for fault in _faults_of(record)
    ]
    if faults:
        raise InvalidFieldsError(faults)


def _faults_of(record: RequestRecord) -> Iterator[FieldViolation]:
    yield from _text_faults(record)
    yield from _number_faults(record)
    yield from _finish_reason_faults(record.finish_reasons)
    yield from _label_faults(record.labels)


def _text_faults(record: RequestRecord) -> Iterator[FieldViolation]:
    for name in _REQUIRED_TEXTS:
        if not 0 < len(getattr(record, name)) <= _MAX_TEXT_LENGTH:
            yield FieldViolation(name, f"must have 1 to {_MAX_TEXT_LENGTH} characters")
    for name in _OPTIONAL_TEXTS:
        if len(getattr(record, name)) > _MAX_TEXT_LENGTH:
            yield FieldViolation(name, f"must have at most {_MAX_TEXT_LENGTH} characters")


def _number_faults(record: RequestRecord) -> Iterator[FieldViolation]:
    if record.status_code > MAX_STATUS_CODE:
        yield FieldViolation("status_code", f"must be 0 to {MAX_STATUS_CODE}")
    if not 0 < record.start_time_ms <= _MAX_TIME_MS:
        yield FieldViolation("start_time", "must be set, after 1970 and before the year 10000")
    for name in _DURATIONS:
        value = getattr(record, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            yield FieldViolation(name, "must be finite and not negative")


def _finish_reason_faults(reasons: Sequence[str]) -> Iterator[FieldViolation]:
    if len(reasons) > _MAX_FINISH_REASONS:
        yield FieldViolation("finish_reasons", f"at most {_MAX_FINISH_REASONS} are allowed")
    if any(len(reason) > _MAX_TEXT_LENGTH for reason in reasons):
        yield FieldViolation("finish_reasons", f"at most {_MAX_TEXT_LENGTH} characters each")


def _label_faults(labels: Mapping[str, str]) -> Iterator[FieldViolation]:
    if len(labels) > _MAX_LABELS:
        yield FieldViolation("labels", f"at most {_MAX_LABELS} are allowed")
    for key, value in labels.items():
        if not 0 < len(key.encode()) <= _MAX_LABEL_KEY_BYTES:
            yield FieldViolation("labels", f"keys must have 1 to {_MAX_LABEL_KEY_BYTES} bytes")
        if len(value.encode()) > _MAX_LABEL_VALUE_BYTES:
            limit = _MAX_LABEL_VALUE_BYTES
            yield FieldViolation("labels", f"values must have at most {limit} bytes")
