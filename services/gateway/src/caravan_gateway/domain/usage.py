"""The record of a finished call. Holds nothing of prompt, answer or key."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a call ended: the number of its gRPC code, and the reason of an error."""

    status_code: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """One call. `id` is unique; `start_time_s` counts from 1970."""

    id: str
    request_id: str
    tenant: str
    principal: str
    key_id: str
    method: str
    model: str
    model_digest: str
    outcome: Outcome
    finish_reasons: tuple[str, ...]
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    start_time_s: float
    duration_ms: float
    time_to_first_token_ms: float | None
    queue_ms: float
    priority: int
    labels: Mapping[str, str]
    failover_count: int = 0
