"""The ways of inference calls through the gateway, as lists of stages; part of the composition."""

import secrets
import time
import uuid
from dataclasses import dataclass

from caravan_gateway.clients.failures import outcome_of
from caravan_gateway.clients.kept_streams import KeptStreams
from caravan_gateway.domain.admission import (
    Authenticate,
    Authorize,
    Keep,
    Measure,
    Reclaim,
    Record,
    Route,
    Stage,
    Stream,
    Validate,
)
from caravan_gateway.domain.authenticator import Authenticator
from caravan_gateway.domain.authorizer import Authorizer
from caravan_gateway.domain.models import ModelCatalog
from caravan_gateway.domain.ports import CallRunner, StreamLedger, UsageSink
from caravan_gateway.domain.routing import Router
from caravan_gateway.metrics import GenerationMetrics
from caravan_gateway.runtime.call_spans import CallSpans
from caravan_gateway.runtime.inference_pipeline import InferencePipeline
from caravan_gateway.runtime.live_calls import LiveCalls


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineParts:
    """What the stages are made of."""

    authenticator: Authenticator
    authorizer: Authorizer
    catalog: ModelCatalog
    router: Router
    route: Route
    streams: KeptStreams
    runner: CallRunner
    metrics: GenerationMetrics
    usage: UsageSink
    ledger: StreamLedger
    live_calls: LiveCalls
    spans: CallSpans


class Pipelines:
    """The way of a call that begins something, and that of one which goes on with a stream."""

    def __init__(self, parts: PipelineParts) -> None:
        self._parts = parts
        admitted = (
            Authenticate(parts.authenticator),
            Authorize(parts.authorizer, parts.catalog),
        )
        placed = (
            Validate(draw_seed=lambda: secrets.randbits(64)),
            parts.route,
        )
        found = (Reclaim(parts.catalog, parts.router, parts.streams),)
        run = (
            Stream(parts.runner),
            Measure(parts.metrics.observe),
            Record(parts.usage, new_id=_new_id, clock=time.monotonic),
            Keep(parts.ledger, new_id=_new_id),
        )
        self.beginning = self._pipeline((*admitted, *placed, *run))
        self.resuming = self._pipeline((*admitted, *found, *run))

    def _pipeline(self, stages: tuple[Stage, ...]) -> InferencePipeline:
        return InferencePipeline(
            stages,
            self._parts.live_calls,
            outcome_of=outcome_of,
            clock=time.monotonic,
            spans=self._parts.spans,
        )


def _new_id() -> str:
    return uuid.uuid4().hex
