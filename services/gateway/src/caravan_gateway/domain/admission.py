"""The stages that every inference call passes, in the order of one list (see `app.py`).

A stage has three moments: `admit` before anything runs, `follow` around the stream of events, and
`settle` when all is over. Limits, filters or a cache are one more entry in the list.
"""

from collections.abc import Callable
from typing import ClassVar

from caravan_gateway.domain.access_rules import ACCESS_RULES
from caravan_gateway.domain.authenticator import Authenticator
from caravan_gateway.domain.authorizer import Authorizer
from caravan_gateway.domain.decision import DEPLOYMENT, model_resource
from caravan_gateway.domain.errors import InvalidCredentialError, PermissionDeniedError
from caravan_gateway.domain.generation import GenerationSpec
from caravan_gateway.domain.inference_call import Events, InferenceCall
from caravan_gateway.domain.models import ModelCatalog
from caravan_gateway.domain.ports import CallRunner, UsageSink
from caravan_gateway.domain.principal import Credential, Identity
from caravan_gateway.domain.routing import Router
from caravan_gateway.domain.usage import UsageRecord
from caravan_gateway.domain.validation import validate

DEFAULT_PRIORITY = 10


class Stage:
    """One step of a call's way. Overrides what it needs."""

    name: ClassVar[str]

    async def admit(self, call: InferenceCall) -> None:
        """Lets the call go on, or refuses it by raising; the later stages then see nothing."""

    def follow(self, call: InferenceCall, events: Events) -> Events:
        """Returns the events for the client, made from those of the stages before."""
        return events

    def settle(self, call: InferenceCall) -> None:
        """Runs once for every call however it ended, also when `admit` was not reached.

        Must not block; `call.outcome` says how it ended.
        """


class Authenticate(Stage):
    """Finds out who is calling; from then on a revoked key ends the call."""

    name = "authenticate"

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def admit(self, call: InferenceCall) -> None:
        """Sets `identity`."""
        credential = Credential.parse(call.authorization)
        call.identity = await self._authenticator.authenticate(credential)
        # No pause between these two, or a revocation could slip through.
        if call.guard is not None:
            call.guard.bind(credential, call.identity)


class Authorize(Stage):
    """Asks whether the caller may do this on this model, before anybody looks for the model."""

    name = "authorize"

    def __init__(self, authorizer: Authorizer, catalog: ModelCatalog) -> None:
        self._authorizer = authorizer
        self._catalog = catalog

    async def admit(self, call: InferenceCall) -> None:
        """Sets nothing."""
        named = call.spec.model
        resource = model_resource(self._catalog.resolve(named) or named)
        await require_access(self._authorizer, _identity(call), call.method, resource)


class Validate(Stage):
    """Refuses what is out of bounds, and fills in what the client left open."""

    name = "validate"

    def __init__(self, draw_seed: Callable[[], int]) -> None:
        self._draw_seed = draw_seed

    async def admit(self, call: InferenceCall) -> None:
        """Sets `priority` and `labels`, and the `seed` of a generation."""
        spec = call.spec
        validate(spec)
        wanted = DEFAULT_PRIORITY if spec.priority is None else spec.priority
        call.priority = min(wanted, _identity(call).priority_cap)
        call.labels = spec.labels
        if isinstance(spec, GenerationSpec):
            call.seed = self._draw_seed() if spec.seed is None else spec.seed


class Route(Stage):
    """Finds the model and leases one of its workers."""

    name = "route"

    def __init__(self, catalog: ModelCatalog, router: Router) -> None:
        self._catalog = catalog
        self._router = router

    async def admit(self, call: InferenceCall) -> None:
        """Sets `model` and `lease`."""
        call.model = self._catalog.find(call.spec.model)
        call.lease = self._router.lease(call.model)

    def settle(self, call: InferenceCall) -> None:
        """Gives the lease back."""
        if call.lease is not None:
            call.lease.release()


class Stream(Stage):
    """Runs the call on its worker, and on others where that is lost."""

    name = "stream"

    def __init__(self, runner: CallRunner) -> None:
        self._runner = runner

    def follow(self, call: InferenceCall, events: Events) -> Events:
        """Returns the events of its workers."""
        return self._runner.run(call)


class Measure(Stage):
    """Lets every call be measured at its end."""

    name = "measure"

    def __init__(self, observe: Callable[[InferenceCall], None]) -> None:
        self._observe = observe

    def settle(self, call: InferenceCall) -> None:
        """Tells of the call."""
        self._observe(call)


class Record(Stage):
    """Writes down what the call used, whichever way it ended. Strangers leave no record."""

    name = "record"

    def __init__(
        self,
        sink: UsageSink,
        *,
        new_id: Callable[[], str],
        clock: Callable[[], float],
    ) -> None:
        self._sink = sink
        self._new_id = new_id
        self._clock = clock

    def settle(self, call: InferenceCall) -> None:
        """Hands the record to the sink."""
        if call.identity is not None:
            self._sink.record(self._record_of(call, call.identity))

    def _record_of(self, call: InferenceCall, identity: Identity) -> UsageRecord:
        progress = call.progress
        first = progress.first_token_s
        endpoint = None if call.lease is None else call.lease.endpoint
        return UsageRecord(
            id=self._new_id(),
            request_id=call.request_id,
            tenant=identity.tenant,
            principal=identity.principal,
            key_id=identity.key_id,
            method=call.method,
            model=call.model,
            model_digest=progress.model_digest or (endpoint.model_digest if endpoint else ""),
            outcome=call.outcome,
            finish_reasons=tuple(reason for _, reason in sorted(progress.finish_reasons.items())),
            input_tokens=progress.input_tokens,
            cached_tokens=progress.cached_tokens,
            output_tokens=progress.output_tokens,
            start_time_s=call.start_time_s,
            duration_ms=(self._clock() - call.start_s) * 1000,
            time_to_first_token_ms=None if first is None else (first - call.start_s) * 1000,
            queue_ms=progress.queue_ms,
            priority=call.priority,
            labels=call.labels,
            failover_count=call.failover_count,
        )


async def require_access(
    authorizer: Authorizer, identity: Identity, method: str, resource: str
) -> None:
    """Returns when the rule of `method` lets the caller pass.

    Raises:
        PermissionDeniedError: it does not, or the method has no rule.
        DependencyUnavailableError: policy does not answer.
    """
    rule = ACCESS_RULES.get(method)
    if rule is None:
        raise PermissionDeniedError(("nothing",))
    await authorizer.require(identity, rule.any_of, resource if rule.on_model else DEPLOYMENT)


def _identity(call: InferenceCall) -> Identity:
    if call.identity is None:
        raise InvalidCredentialError
    return call.identity
