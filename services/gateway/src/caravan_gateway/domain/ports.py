"""What the domain needs from outside, each the size of one capability."""

from typing import Protocol

from caravan_gateway.domain.decision import Decision, Question
from caravan_gateway.domain.inference_call import Events, InferenceCall, RunEvent
from caravan_gateway.domain.models import Endpoint
from caravan_gateway.domain.principal import Credential, Identity
from caravan_gateway.domain.resumption import FoundStream, ResumeSpec
from caravan_gateway.domain.usage import UsageRecord


class CredentialChecker(Protocol):
    """Policy, asked who holds a credential."""

    async def check_credential(self, credential: Credential) -> Identity:
        """Returns who it is.

        Raises:
            InvalidCredentialError, KeyExpiredError, KeyRevokedError: policy refuses it.
            DependencyUnavailableError: policy does not answer.
        """


class PermissionChecker(Protocol):
    """Policy, asked what a principal may do."""

    async def check_permission(self, question: Question) -> Decision:
        """Returns the decision.

        Raises:
            DependencyUnavailableError: policy does not answer.
        """


class WorkerRunner(Protocol):
    """The workers."""

    def run(self, endpoint: Endpoint, call: InferenceCall) -> Events:
        """Runs the call on one worker and yields its events; closing it cancels the worker's work.

        A call of which the client has something (`call.emitted`) goes on from there. The last event
        is `completed`, or it raises. Reads from the worker only when asked for the next event.

        Raises:
            WorkerDiedError: the worker is gone.
            Exception: whatever the worker refused with, unchanged.
        """

    def disown(self, endpoint: Endpoint, call: InferenceCall) -> None:
        """What the worker may still do for a call, which goes on elsewhere, is to end."""

    def completed(self, call: InferenceCall) -> RunEvent:
        """Returns the last event of a generation whose choices are all over."""


class CallRunner(Protocol):
    """Runs calls on whichever workers there are."""

    def run(self, call: InferenceCall) -> Events:
        """Yields the events of the call, beginning on the worker that it leased.

        Raises:
            Exception: whatever ended the call.
        """


class KeptStreams(Protocol):
    """What workers keep of streams whose connection broke."""

    async def find(
        self, endpoint: Endpoint, call: InferenceCall, spec: ResumeSpec
    ) -> FoundStream | None:
        """Returns the stream that the caller names so, if the worker keeps it.

        Raises:
            WorkerDiedError: the worker is gone.
            Exception: whatever the worker refused with, unchanged.
        """


class StreamLedger(Protocol):
    """Tells workers which streams are accounted for."""

    def accounted(self, worker: Endpoint, usage_id: str, *, is_wanted: bool) -> None:
        """The record is handed over; one that isn't wanted any more ends. Never blocks or fails."""

    def disowned(self, worker: Endpoint, usage_id: str) -> None:
        """The stream goes on elsewhere, under the same record. Never blocks or fails."""


class UsageSink(Protocol):
    """Where records of finished calls go."""

    def record(self, usage: UsageRecord) -> bool:
        """Takes one record, or loses it and returns False; never blocks and never fails."""

    async def written(self) -> None:
        """Returns when all that was taken so far survives this process, or it can't wait longer."""
