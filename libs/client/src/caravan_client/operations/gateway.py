"""The calls of `caravan.gateway.v1.GatewayAdminService`."""

from caravan.engine.v1 import worker_stats_pb2 as stats_pb
from caravan.gateway.v1 import gateway_admin_service_pb2 as service_pb
from caravan_client.operations.models import kv_unit_of, parse_model
from caravan_client.operations.operation import Operation, fill, operation
from caravan_client.operations.timestamps import time_of
from caravan_client.resources import (
    Dependency,
    DrainedWorkers,
    DroppedPages,
    GatewayStatus,
    WorkerMemory,
    WorkersReport,
    WorkerStats,
)

_SERVICE = "/caravan.gateway.v1.GatewayAdminService/"


def get_status() -> Operation[GatewayStatus]:
    """Asks how the deployment is."""
    return operation(
        f"{_SERVICE}GetGatewayStatus",
        service_pb.GetGatewayStatusRequest(),
        service_pb.GetGatewayStatusResponse,
        _parse_status,
    )


def drop_pages(tenant: str, model: str | None) -> Operation[DroppedPages]:
    """Asks to forget a tenant's pages."""
    request = service_pb.DropPagesRequest()
    fill(request, tenant=tenant, model=model)
    return operation(
        f"{_SERVICE}DropPages",
        request,
        service_pb.DropPagesResponse,
        lambda response: DroppedPages(response.dropped_page_count, response.worker_count),
    )


def set_page_budgets(model: str, host_bytes: int | None, disk_bytes: int | None) -> Operation[int]:
    """Asks to change how much is stored; tells how many workers were asked."""
    request = service_pb.SetPageBudgetsRequest()
    fill(request, model=model, host_bytes=host_bytes, disk_bytes=disk_bytes)
    return operation(
        f"{_SERVICE}SetPageBudgets",
        request,
        service_pb.SetPageBudgetsResponse,
        lambda response: response.worker_count,
    )


def drain_workers(
    *,
    model: str | None,
    replica: int | None,
    engine: str | None,
    timeout_s: float | None,
    restart: bool,
) -> Operation[DrainedWorkers]:
    """Asks to empty workers."""
    request = service_pb.DrainWorkersRequest(restart=restart)
    timeout_ms = None if timeout_s is None else round(timeout_s * 1000)
    fill(request, model=model, replica_index=replica, engine_address=engine, timeout_ms=timeout_ms)
    return operation(
        f"{_SERVICE}DrainWorkers",
        request,
        service_pb.DrainWorkersResponse,
        lambda response: DrainedWorkers(response.worker_count, response.unfinished_request_count),
    )


def get_worker_stats() -> Operation[WorkersReport]:
    """Asks for the numbers of all workers."""
    return operation(
        f"{_SERVICE}GetWorkerStats",
        service_pb.GetWorkerStatsRequest(),
        service_pb.GetWorkerStatsResponse,
        _parse_report,
    )


def _parse_report(response: service_pb.GetWorkerStatsResponse) -> WorkersReport:
    return WorkersReport(
        workers=tuple(_parse_stats(stats) for stats in response.workers),
        missing_hosts=tuple(response.missing_hosts),
    )


def _parse_stats(stats: stats_pb.WorkerStats) -> WorkerStats:
    restored = (m.count for m in stats.page_moves if m.kind == stats_pb.PAGE_MOVE_KIND_RESTORE)
    return WorkerStats(
        model=stats.model,
        replica=stats.replica_index,
        num_running=stats.running_count,
        num_paused=stats.paused_count,
        num_seats=stats.seat_count,
        num_parked=stats.parked_count,
        num_waiting=stats.waiting_count,
        waiting_by_priority={each.priority: each.count for each in stats.waiting_counts},
        tokens_per_s=stats.output_tokens_per_second,
        input_tokens=stats.input_tokens_total,
        output_tokens=stats.output_tokens_total,
        prefix_query_tokens=stats.prefix_query_tokens_total,
        prefix_hit_tokens=stats.prefix_hit_tokens_total,
        num_parkings=stats.parkings_total,
        num_pages_restored=sum(restored),
        num_pages_evicted=stats.cell_evictions_total + stats.host_evictions_total,
        resident_bytes=stats.resident_bytes,
        memory=_parse_memory(stats),
    )


def _parse_memory(stats: stats_pb.WorkerStats) -> WorkerMemory:
    return WorkerMemory(
        kept_by=kv_unit_of(stats.kv_unit),
        page_tokens=stats.page_token_count,
        num_cells=stats.cell_count,
        num_running_cells=stats.used_cell_count,
        num_idle_cells=stats.idle_cell_count,
        highest_used_cell=stats.highest_used_cell,
        num_cell_pages=stats.cell_page_count,
        num_idle_pages=stats.idle_page_count,
        num_host_pages=stats.host_page_count,
        host_bytes=stats.host_page_bytes,
        host_budget_bytes=stats.host_budget_bytes,
        num_disk_pages=stats.disk_page_count,
        disk_bytes=stats.disk_page_bytes,
        disk_budget_bytes=stats.disk_budget_bytes,
        num_disk_reads_pending=stats.disk_reads_pending,
    )


def _parse_status(response: service_pb.GetGatewayStatusResponse) -> GatewayStatus:
    return GatewayStatus(
        version=response.version,
        start_time=time_of(response, "start_time"),
        serving=response.serving,
        dependencies=tuple(
            Dependency(entry.service, entry.address, entry.reachable, entry.detail)
            for entry in response.dependencies
        ),
        models=tuple(parse_model(model) for model in response.models),
        num_active_calls=response.active_call_count,
        num_spooled_records=response.spooled_record_count,
    )
