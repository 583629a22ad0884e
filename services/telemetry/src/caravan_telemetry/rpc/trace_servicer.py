"""`opentelemetry.proto.collector.trace.v1.TraceService`: takes spans in."""

from collections.abc import Callable
from functools import partial

from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as trace_service_pb

from caravan_rpckit.call import Call
from caravan_telemetry.domain.span_record import MAX_BATCH_SPANS
from caravan_telemetry.domain.trace_archive import TraceArchive
from caravan_telemetry.rpc.convert_spans import span_records
from caravan_telemetry.runtime.storing_thread import StoringThread

PassOn = Callable[[trace_service_pb.ExportTraceServiceRequest], None]


class TraceServicer:
    """Stores what it is sent, and passes it on to another collector if there is one."""

    def __init__(
        self,
        archive: TraceArchive,
        thread: StoringThread,
        *,
        spare_places: int,
        pass_on: PassOn | None,
        on_rejected: Callable[[int], None],
    ) -> None:
        self._archive = archive
        self._thread = thread
        self._spare_places = spare_places
        self._pass_on = pass_on
        self._on_rejected = on_rejected

    async def Export(
        self, request: trace_service_pb.ExportTraceServiceRequest, call: Call
    ) -> trace_service_pb.ExportTraceServiceResponse:
        """Answers once the spans are stored; those that cannot be kept are counted in it."""
        rejected = await self.take(request)
        response = trace_service_pb.ExportTraceServiceResponse()
        if rejected:
            response.partial_success.rejected_spans = rejected
            response.partial_success.error_message = (
                "spans without valid ids or times, or too many of them in one request"
            )
        return response

    async def take(self, request: trace_service_pb.ExportTraceServiceRequest) -> int:
        """Stores the spans of a request and returns how many could not be kept."""
        spans = list(span_records(request))
        sound = [span for span in spans if span.is_sound][:MAX_BATCH_SPANS]
        await self._thread.run(partial(self._archive.take, sound), spare_places=self._spare_places)
        if self._pass_on is not None and spans:
            self._pass_on(request)
        rejected = len(spans) - len(sound)
        if rejected:
            self._on_rejected(rejected)
        return rejected
