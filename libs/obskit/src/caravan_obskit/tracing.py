"""Sets OpenTelemetry up for one process: who it is, what is recorded, and where spans go.

Nothing here is global: the application makes one `Tracing` and hands its `calls` to servers and
clients.
"""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service_pb
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    TraceIdRatioBased,
)
from opentelemetry.trace import Tracer

from caravan_obskit.instruments import Instruments, Label
from caravan_obskit.otlp import OtlpSender, export_request
from caravan_obskit.span_delivery import DeliveryLimits, SpanDelivery
from caravan_rpckit.channel import open_channel
from caravan_rpckit.tls import TlsIdentity
from caravan_rpckit.tracing import CallTracing

Deliver = Callable[[trace_service_pb.ExportTraceServiceRequest], Awaitable[None]]
OnLost = Callable[[int, str], None]

_CLOSING_S = 1.0
_TELEMETRY = "telemetry"
_TELEMETRY_TIMEOUT_S = 5.0
_SPAN_LIMITS = SpanLimits(max_attributes=64, max_events=16, max_links=0, max_attribute_length=256)


def edge_sampler(ratio: float) -> Sampler:
    """Decides where calls come in: such a share of traces, and all that the client records.

    That a client doesn't record its part says nothing about ours.
    """
    own = TraceIdRatioBased(ratio)
    return ParentBased(root=own, remote_parent_sampled=ALWAYS_ON, remote_parent_not_sampled=own)


def inner_sampler() -> Sampler:
    """Follows the caller's decision, and begins nothing."""
    return ParentBased(root=ALWAYS_OFF)


def no_sampler() -> Sampler:
    """Records nothing; trace context still passes through."""
    return ALWAYS_OFF


class Tracing:
    """The tracing of this process. Owned by the event loop; spans are ended on its thread.

    Args:
        service: the name under which spans are shown.
        sampler: what is recorded.
        starts_traces: see `CallTracing`.
        on_lost: is told how many spans are lost, and why.
        limits: how many wait, and how long.
    """

    def __init__(
        self,
        service: str,
        *,
        sampler: Sampler,
        starts_traces: bool = False,
        on_lost: OnLost = lambda count, cause: None,
        limits: DeliveryLimits | None = None,
    ) -> None:
        self._resource = {
            "service.name": service,
            "service.namespace": "caravan",
            "service.instance.id": uuid.uuid4().hex,
        }
        provider = TracerProvider(
            sampler=sampler,
            resource=Resource(self._resource),
            shutdown_on_exit=False,
            span_limits=_SPAN_LIMITS,
        )
        self._deliver: Deliver | None = None
        self._delivery = SpanDelivery(
            self._send, limits if limits is not None else DeliveryLimits(), on_lost=on_lost
        )
        provider.add_span_processor(_Queue(self._delivery))
        self.tracer: Tracer = provider.get_tracer("caravan")
        self.calls = CallTracing(self.tracer, starts_traces)

    def start(self, deliver: Deliver) -> None:
        """Begins to take spans to telemetry by `deliver`."""
        self._deliver = deliver
        self._delivery.start()

    def start_towards(self, address: str, tls: TlsIdentity, resources: AsyncExitStack) -> None:
        """Begins to take spans to telemetry at `address`; what was opened ends with `resources`."""
        channel = open_channel(address, tls=tls, server_name=_TELEMETRY)
        resources.push_async_callback(channel.close)
        resources.push_async_callback(self.close)
        self.start(OtlpSender(channel, timeout_s=_TELEMETRY_TIMEOUT_S))

    async def close(self) -> None:
        """Delivers what waits, within a second, and ends."""
        await self._delivery.close(_CLOSING_S)

    async def _send(self, spans: Sequence[ReadableSpan]) -> None:
        if self._deliver is not None:
            await self._deliver(export_request(spans, self._resource))


class _Queue(SpanProcessor):
    """Puts spans that have ended where the delivery finds them."""

    def __init__(self, delivery: SpanDelivery[ReadableSpan]) -> None:
        self._delivery = delivery

    def on_end(self, span: ReadableSpan) -> None:
        self._delivery.put(span)


def lost_spans_counter(instruments: Instruments) -> OnLost:
    """Declares the count of spans that did not reach telemetry; returns what counts them."""
    lost = instruments.counter(
        "caravan_tracing_spans_lost_total",
        unit="spans",
        description="Spans of this process that telemetry did not get: queue_full, refused, "
        "shutdown.",
        labels=(Label("cause", values=("queue_full", "refused", "shutdown")),),
    )

    def count(number: int, cause: str) -> None:
        lost.of(cause=cause).inc(number)

    return count
