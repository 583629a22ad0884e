"""The stages that every inference call passes, in the order of one list (see `pipelines.py`).

A stage has four moments: `admit` before anything runs, `follow` around the stream of events,
`secure` before the client hears that all is over, and `settle` when it is. Limits, filters or a
cache are one more entry in the list.
"""

from collections.abc import Callable
from typing import ClassVar

from caravan_gateway.domain.access_rules import ACCESS_RULES
from caravan_gateway.domain.affinity import InputMarks
from caravan_gateway.domain.arrival import Arrivals
from caravan_gateway.domain.authenticator import Authenticator
from caravan_gateway.domain.authorizer import Authorizer
from caravan_gateway.domain.call_record import record_of
from caravan_gateway.domain.decision import DEPLOYMENT, model_resource
from caravan_gateway.domain.errors import (
    InvalidCredentialError,
    PermissionDeniedError,
    StreamNotKeptError,
    WorkerDiedError,
)
from caravan_gateway.domain.generation import GenerationSpec
from caravan_gateway.domain.inference_call import Events, InferenceCall
from caravan_gateway.domain.models import Endpoint, ModelCatalog
from caravan_gateway.domain.ports import CallRunner, KeptStreams, StreamLedger, UsageSink
from caravan_gateway.domain.principal import Credential, Identity
from caravan_gateway.domain.resumption import (
    FoundStream,
    ResumeSpec,
    check_stream_name,
    is_left_behind,
    take_up,
    worker_to_tell,
)
from caravan_gateway.domain.routing import Router
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

    async def secure(self, call: InferenceCall) -> None:
        """Returns when what must outlive this process does, within a bounded time.

        Awaited before the client gets the last event of a call that went well, and after `settle`
        before it gets an error. Not awaited for a client that left.
        """

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
    """Finds the model and leases one of its workers, or one that comes soon."""

    name = "route"

    def __init__(
        self,
        catalog: ModelCatalog,
        arrivals: Arrivals,
        marks_of: Callable[[InferenceCall], InputMarks | None] = lambda _: None,
    ) -> None:
        self._catalog = catalog
        self._arrivals = arrivals
        self._marks_of = marks_of

    async def admit(self, call: InferenceCall) -> None:
        """Sets `model`, `marks` and `lease`."""
        call.model = self._catalog.find(call.spec.model)
        call.marks = self._marks_of(call)
        call.lease = await self._arrivals.lease(call.model, call.marks)

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
        """Tells of the call; of one that goes on elsewhere it is told there."""
        if not is_left_behind(call):
            self._observe(call)


class Record(Stage):
    """Writes down what the call used, whichever way it ended. Strangers leave no record.

    The record is on disk before the client has its answer: who has an answer is charged for it,
    whatever dies next. A client that leaves between the two is recorded as if it had read it.
    """

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

    async def secure(self, call: InferenceCall) -> None:
        """Hands the record to the sink and waits for the disk."""
        self.settle(call)
        if call.is_recorded:
            await self._sink.written()

    def settle(self, call: InferenceCall) -> None:
        """Hands the record to the sink once, unless somebody else writes it."""
        is_lookup = isinstance(call.spec, ResumeSpec)  # of a stream that wasn't found
        is_elsewhere = is_lookup or is_left_behind(call)
        if call.is_recorded is not None or call.identity is None or is_elsewhere:
            return
        usage_id = call.usage_id or self._new_id()
        record = record_of(call, call.identity, usage_id, self._clock())
        call.is_recorded = self._sink.record(record)


class Keep(Stage):
    """Sees to it that somebody accounts for each generation, also if this gateway dies."""

    name = "keep"

    def __init__(self, ledger: StreamLedger, *, new_id: Callable[[], str]) -> None:
        self._ledger = ledger
        self._new_id = new_id

    async def admit(self, call: InferenceCall) -> None:
        """Sets `usage_id`, by which worker, gateways and telemetry know the generation."""
        if isinstance(call.spec, GenerationSpec):
            call.usage_id = call.usage_id or self._new_id()

    def settle(self, call: InferenceCall) -> None:
        """Tells the worker that the record is written; comes after the record stage."""
        worker = worker_to_tell(call)
        if call.usage_id and worker is not None:
            is_wanted = is_left_behind(call) or not call.outcome.reason
            self._ledger.accounted(worker, call.usage_id, is_wanted=is_wanted)


class Reclaim(Stage):
    """Finds the stream that a client comes back for, and leases its worker."""

    name = "reclaim"

    def __init__(self, catalog: ModelCatalog, router: Router, streams: KeptStreams) -> None:
        self._catalog = catalog
        self._router = router
        self._streams = streams

    async def admit(self, call: InferenceCall) -> None:
        """Sets everything that the call which began the stream had set."""
        spec = call.spec
        if not isinstance(spec, ResumeSpec):
            raise TypeError("this way is for calls that resume")
        check_stream_name(spec, spec.request_id, len(spec.choices))
        call.model = self._catalog.find(spec.model)
        endpoint, found = await self._search(call, spec)
        take_up(call, found)
        call.lease = self._router.lease_on(endpoint)

    def settle(self, call: InferenceCall) -> None:
        """Gives the lease back."""
        if call.lease is not None:
            call.lease.release()

    async def _search(self, call: InferenceCall, spec: ResumeSpec) -> tuple[Endpoint, FoundStream]:
        lost: WorkerDiedError | None = None
        for endpoint in self._catalog.endpoints_of(call.model):
            try:
                found = await self._streams.find(endpoint, call, spec)
            except WorkerDiedError as error:
                lost = error
                continue
            if found is not None:
                return endpoint, found
        self._catalog.all_endpoints_of(call.model)  # raises where one of them comes back
        raise lost or StreamNotKeptError(call.model)


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
