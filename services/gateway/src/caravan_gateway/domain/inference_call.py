"""One inference call on its way through the stages, and what is seen of its events."""

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from caravan_gateway.domain.affinity import InputMarks
from caravan_gateway.domain.emitted import Emitted
from caravan_gateway.domain.errors import GatewayError
from caravan_gateway.domain.inference_facts import (
    CompletedFacts,
    DeltaFacts,
    FinishedFacts,
    RunFacts,
    StartedFacts,
)
from caravan_gateway.domain.inference_spec import InferenceSpec
from caravan_gateway.domain.models import Endpoint
from caravan_gateway.domain.principal import Credential, Identity
from caravan_gateway.domain.routing import Lease
from caravan_gateway.domain.usage import Outcome


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One event: what the client gets, which nobody here looks into, and the facts in it."""

    payload: object
    facts: RunFacts


# Whoever stops before the end closes it; that reaches back to the worker.
Events = AsyncGenerator[RunEvent, None]


@dataclass(slots=True)
class Progress:
    """What a call has used so far; kept up event by event, so that it holds however it ends."""

    model_digest: str = ""
    input_tokens: int = 0
    cached_tokens: int = 0
    queue_ms: float = 0.0
    first_token_s: float | None = None
    total_output_tokens: int | None = None
    output_tokens_by_choice: dict[int, int] = field(default_factory=dict)
    finish_reasons: dict[int, str] = field(default_factory=dict)

    @property
    def output_tokens(self) -> int:
        """Generated tokens over all choices; the worker's own sum once it said so."""
        if self.total_output_tokens is not None:
            return self.total_output_tokens
        return sum(self.output_tokens_by_choice.values())

    def observe(self, facts: RunFacts, now_s: float) -> None:
        """Takes in one event."""
        match facts:
            case DeltaFacts():
                if self.first_token_s is None:
                    self.first_token_s = now_s
                self.output_tokens_by_choice[facts.choice_index] = facts.output_tokens
            case StartedFacts():
                self.model_digest = facts.model_digest
                self.input_tokens = facts.input_tokens
                self.cached_tokens = facts.cached_tokens
            case FinishedFacts():
                self.finish_reasons[facts.choice_index] = facts.finish_reason
                self.output_tokens_by_choice[facts.choice_index] = facts.output_tokens
            case CompletedFacts():
                self.input_tokens = facts.input_tokens
                self.cached_tokens = facts.cached_tokens
                self.total_output_tokens = facts.output_tokens
                self.queue_ms = facts.queue_ms


class CallGuard(Protocol):
    """What can end a call from outside."""

    def bind(self, credential: Credential, identity: Identity) -> None:
        """From now on the call ends when the key is revoked."""


@dataclass(slots=True)
class InferenceCall:
    """One call. The first block comes with it; the stages fill in the second.

    `request` is the request as it came, for the worker; nothing here looks into it. `time_left`
    gives the seconds until the caller's deadline, if it has one. `end` fails the call from outside.
    A call `is_resumable` if its client may come back for the rest of its stream; `kept_on` is the
    worker that has it now, and keeps it.
    """

    method: str
    request_id: str
    authorization: str | None = field(repr=False)
    spec: InferenceSpec
    request: object = field(repr=False)
    time_left: Callable[[], float | None] = field(repr=False)
    end: Callable[[GatewayError], None] = field(repr=False)
    start_s: float
    start_time_s: float
    is_resumable: bool = False

    guard: CallGuard | None = None
    identity: Identity | None = None
    model: str = ""
    seed: int = 0
    priority: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    marks: InputMarks | None = None
    lease: Lease | None = None
    kept_on: Endpoint | None = None
    usage_id: str = ""
    is_recorded: bool | None = None  # None: its record isn't handed over yet; False: it is lost
    failover_count: int = 0
    emitted: Emitted = field(default_factory=Emitted, repr=False)
    progress: Progress = field(default_factory=Progress)
    outcome: Outcome = field(default_factory=Outcome)
