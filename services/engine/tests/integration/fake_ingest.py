"""A telemetry service that takes usage records, or doesn't."""

import asyncio

from caravan.telemetry.v1 import ingest_service_pb2 as ingest_pb
from caravan_rpckit.errors import CaravanError, FieldViolation, Reason

INGEST = ingest_pb.DESCRIPTOR.services_by_name["IngestService"]


class AwayError(CaravanError):
    reason = Reason.DEPENDENCY_UNAVAILABLE


class RefusedError(CaravanError):
    reason = Reason.INVALID_FIELD


class FakeIngest:
    """Keeps the records that it is sent, and their ids.

    It is away for as many calls as `num_refusals` says, and takes no call with a record whose id
    is `faulty`.
    """

    def __init__(self):
        self.address = ""
        self.ids = []
        self.records = asyncio.Queue()
        self.num_refusals = 0
        self.faulty = set()

    async def IngestUsage(self, request, _call):
        if self.num_refusals:
            self.num_refusals -= 1
            raise AwayError("away")
        if self.faulty & {each.id for each in request.records}:
            raise RefusedError("no", field_violations=[FieldViolation("records[0].id", "is bad")])
        for record in request.records:
            self.ids.append(record.id)
            self.records.put_nowait(record)
        return ingest_pb.IngestUsageResponse(stored_count=len(request.records))

    async def StreamWorkerStats(self, _requests, _call):
        return ingest_pb.StreamWorkerStatsResponse()
