"""The telemetry service, played: it keeps what it is sent."""

from fake_server import FakeServer, RefusedError
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from caravan.telemetry.v1 import ingest_service_pb2 as ingest_pb
from caravan.telemetry.v1 import span_pb2
from caravan.telemetry.v1 import trace_query_service_pb2 as query_pb
from caravan_obskit.otlp import TRACE_SERVICE
from caravan_rpckit.errors import FieldViolation, Reason


class FakeTelemetry(FakeServer):
    def __init__(self, home):
        super().__init__(home, "telemetry")
        self.records = {}
        self.num_batches = 0
        self.refused_ids = set()
        self.acknowledge = True
        self.spans = []
        self.questions = []

    def add_to(self, server):
        server.add(self, ingest_pb.DESCRIPTOR.services_by_name["IngestService"], peers=("gateway",))
        server.add(self, TRACE_SERVICE, peers=("gateway",))
        query = query_pb.DESCRIPTOR.services_by_name["TraceQueryService"]
        server.add(self, query, peers=("gateway",))

    async def Export(self, request, call):
        for part in request.resource_spans:
            for scope in part.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()

    async def GetTrace(self, request, call):
        self.questions.append(request.request_id)
        return query_pb.GetTraceResponse(spans=[span_pb2.Span(name="call")])

    async def IngestUsage(self, request, call):
        self.num_batches += 1
        faults = [
            FieldViolation(f"records[{at}].labels", "is refused by a fake")
            for at, record in enumerate(request.records)
            if record.request_id in self.refused_ids
        ]
        if faults:
            raise RefusedError(Reason.INVALID_FIELD, field_violations=faults)
        new = [record for record in request.records if record.id not in self.records]
        self.records.update({record.id: record for record in request.records})
        if not self.acknowledge:
            raise RefusedError(Reason.DEPENDENCY_UNAVAILABLE)
        return ingest_pb.IngestUsageResponse(stored_count=len(new))

    async def StreamWorkerStats(self, requests, call):
        async for _ in requests:
            pass
        return ingest_pb.StreamWorkerStatsResponse()
