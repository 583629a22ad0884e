"""From wire types to the domain's."""

from caravan.telemetry.v1 import ingest_service_pb2 as ingest_pb
from caravan.telemetry.v1 import usage_pb2 as usage_pb
from caravan_obskit.worker_stats import numbers_of
from caravan_telemetry.domain.request_record import RequestRecord
from caravan_telemetry.domain.worker_report import HostReport


def request_record(record: usage_pb.UsageRecord) -> RequestRecord:
    """Converts a record as it came; nothing is checked here."""
    has_first_token = record.HasField("time_to_first_token_ms")
    start = record.start_time
    return RequestRecord(
        id=record.id,
        request_id=record.request_id,
        tenant=record.tenant,
        principal=record.principal,
        key_id=record.key_id,
        method=record.method,
        model=record.model,
        model_digest=record.model_digest,
        status_code=record.status_code,
        error_reason=record.error_reason,
        finish_reasons=tuple(record.finish_reasons),
        input_tokens=record.input_tokens,
        cached_tokens=record.cached_tokens,
        output_tokens=record.output_tokens,
        start_time_ms=start.seconds * 1000 + start.nanos // 1_000_000,
        duration_ms=record.duration_ms,
        time_to_first_token_ms=record.time_to_first_token_ms if has_first_token else None,
        queue_ms=record.queue_ms,
        priority=record.priority,
        labels=dict(record.labels),
        gateway_id=record.gateway_id,
        failover_count=record.failover_count,
        is_provisional=record.provisional,
    )


def host_report(message: ingest_pb.StreamWorkerStatsRequest) -> HostReport:
    """Converts a report as it came; nothing is checked here."""
    return HostReport(message.host_id, tuple(numbers_of(stats) for stats in message.workers))
