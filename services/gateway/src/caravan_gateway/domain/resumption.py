"""Streams whose client came back: what it asks for, what is found, and who accounts for it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from caravan_gateway.domain.emitted import Emitted
from caravan_gateway.domain.errors import InvalidFieldsError
from caravan_gateway.domain.generation import GenerationSpec
from caravan_gateway.domain.inference_call import InferenceCall
from caravan_gateway.domain.inference_facts import FinishedFacts
from caravan_gateway.domain.inference_spec import InferenceSpec
from caravan_gateway.domain.models import Endpoint
from caravan_gateway.domain.validation import MAX_CHOICE_COUNT, MAX_MODEL_NAME_BYTES
from caravan_rpckit.errors import FieldViolation, Reason

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# How calls end whose client may come back for the rest.
_LEAVING = frozenset({Reason.CANCELLED, Reason.DRAINING})


@dataclass(frozen=True, slots=True)
class ReceivedChoice:
    """What a client says that it has of a choice."""

    output_tokens: int
    is_finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeSpec(InferenceSpec):
    """Which stream, and what its client has of it."""

    request_id: str
    choices: tuple[ReceivedChoice, ...]


@dataclass(frozen=True, slots=True)
class BegunUsage:
    """The usage record as it began."""

    id: str
    method: str
    start_time_s: float
    priority: int
    labels: Mapping[str, str]
    failover_count: int


@dataclass(frozen=True, slots=True)
class FoundStream:
    """What a worker keeps of a generation; `request` is as it was sent to it."""

    spec: GenerationSpec
    request: object = field(repr=False)
    seed: int
    usage: BegunUsage
    emitted: Emitted = field(repr=False)
    finished: tuple[FinishedFacts, ...]
    time_to_first_token_ms: float | None


def check_stream_name(spec: InferenceSpec, request_id: str, num_choices: int = 0) -> None:
    """Refuses what can't name a stream.

    Raises:
        InvalidFieldsError: names each faulty field.
    """
    faults = list(_faults(spec, request_id, num_choices))
    if faults:
        raise InvalidFieldsError(faults)


def _faults(spec: InferenceSpec, request_id: str, num_choices: int) -> Iterator[FieldViolation]:
    if not 1 <= len(spec.model.encode()) <= MAX_MODEL_NAME_BYTES:
        yield FieldViolation("model", f"must have 1 to {MAX_MODEL_NAME_BYTES} bytes")
    if not _REQUEST_ID.fullmatch(request_id):
        yield FieldViolation("request_id", "must have 1 to 128 of A-Z a-z 0-9 . _ -")
    if num_choices > MAX_CHOICE_COUNT:
        yield FieldViolation("choices", f"at most {MAX_CHOICE_COUNT}")


def take_up(call: InferenceCall, found: FoundStream) -> None:
    """Makes a call that asked for a stream go on with it, as if it had been its from the start."""
    usage, progress = found.usage, call.progress
    call.spec, call.request, call.seed = found.spec, found.request, found.seed
    call.is_resumable, call.usage_id = True, usage.id
    call.method, call.priority, call.labels = usage.method, usage.priority, usage.labels
    call.failover_count = usage.failover_count
    call.start_s -= call.start_time_s - usage.start_time_s
    call.start_time_s = usage.start_time_s
    call.emitted = found.emitted
    for index, choice in enumerate(found.emitted.choices(found.spec.choice_count or 1)):
        progress.output_tokens_by_choice[index] = len(choice.token_ids)
    for finished in found.finished:
        progress.finish_reasons[finished.choice_index] = finished.finish_reason
    if found.time_to_first_token_ms is not None:
        progress.first_token_s = call.start_s + found.time_to_first_token_ms / 1000


def is_left_behind(call: InferenceCall) -> bool:
    """Whether somebody else accounts for a call that is over here.

    That is who resumed it, or will, or else its worker when its time is over.
    """
    if call.outcome.reason == Reason.RESUMED_ELSEWHERE:
        return True
    return call.is_resumable and call.kept_on is not None and call.outcome.reason in _LEAVING


def worker_to_tell(call: InferenceCall) -> Endpoint | None:
    """The worker that keeps the stream of a call of which this gateway wrote the record."""
    return call.kept_on if call.is_recorded else None
