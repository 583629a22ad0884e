"""Delivers usage records to telemetry."""

import re
from collections.abc import Sequence

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc

from caravan.telemetry.v1 import ingest_service_pb2 as ingest_pb
from caravan.telemetry.v1 import ingest_service_pb2_grpc as ingest_grpc
from caravan.telemetry.v1 import usage_pb2 as usage_pb
from caravan_gateway.runtime.usage_delivery import RecordsRefusedError, TelemetryUnavailableError
from caravan_rpckit.details import error_details

_POSITION = re.compile(r"records\[(\d+)\]")
_SERVICE = ingest_pb.DESCRIPTOR.services_by_name["IngestService"].full_name


class TelemetryClient:
    """Implements UsageReceiver over one channel."""

    def __init__(
        self, channel: grpc.aio.Channel, *, timeout_s: float, probe_timeout_s: float = 1.0
    ) -> None:
        self._ingest = ingest_grpc.IngestServiceStub(channel)
        self._health = health_pb2_grpc.HealthStub(channel)
        self._timeout_s = timeout_s
        self._probe_timeout_s = probe_timeout_s

    async def deliver(self, payloads: Sequence[bytes]) -> None:
        """Implements UsageReceiver."""
        request = ingest_pb.IngestUsageRequest(records=_parsed(payloads))
        try:
            await self._ingest.IngestUsage(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                raise RecordsRefusedError(_positions(error, len(payloads))) from None
            raise TelemetryUnavailableError(error.code().name) from None

    async def probe(self) -> str:
        """Returns "" when telemetry takes records, else what is wrong."""
        request = health_pb2.HealthCheckRequest(service=_SERVICE)
        try:
            answer = await self._health.Check(request, timeout=self._probe_timeout_s)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        serving = answer.status == health_pb2.HealthCheckResponse.SERVING
        return "" if serving else "not serving"


def _parsed(payloads: Sequence[bytes]) -> list[usage_pb.UsageRecord]:
    records, damaged = [], []
    for position, payload in enumerate(payloads):
        try:
            records.append(usage_pb.UsageRecord.FromString(payload))
        except DecodeError:
            damaged.append(position)
    if damaged:
        raise RecordsRefusedError(damaged)
    return records


def _positions(error: grpc.aio.AioRpcError, count: int) -> set[int]:
    """Which records telemetry named as faulty."""
    details = error_details(error)
    violations = () if details is None else details.field_violations
    matches = (_POSITION.match(violation.field) for violation in violations)
    positions = {int(match.group(1)) for match in matches if match is not None}
    return {position for position in positions if position < count}
