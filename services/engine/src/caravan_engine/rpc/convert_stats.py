"""The worker's numbers: from the runtime's snapshot to the proto."""

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.timestamp_pb2 import Timestamp

from caravan.engine.v1 import worker_stats_pb2 as pb
from caravan.model.v1 import model_pb2 as model_pb
from caravan_engine.domain.kv_numbers import DiskStats, KvSnapshot, KvUnit, MoveTimes
from caravan_engine.domain.model_facts import DeviceMemory
from caravan_engine.runtime.handover_arrival import ArrivalNumbers
from caravan_engine.runtime.retained_streams import KeptNumbers
from caravan_engine.runtime.stats import Distribution, HistogramSnapshot, StatsSnapshot

_KINDS = {
    Distribution.TIME_TO_FIRST_TOKEN_S: pb.HISTOGRAM_KIND_TIME_TO_FIRST_TOKEN_SECONDS,
    Distribution.INTER_TOKEN_LATENCY_S: pb.HISTOGRAM_KIND_INTER_TOKEN_LATENCY_SECONDS,
    Distribution.TIME_PER_OUTPUT_TOKEN_S: pb.HISTOGRAM_KIND_TIME_PER_OUTPUT_TOKEN_SECONDS,
    Distribution.END_TO_END_S: pb.HISTOGRAM_KIND_END_TO_END_SECONDS,
    Distribution.QUEUE_S: pb.HISTOGRAM_KIND_QUEUE_SECONDS,
    Distribution.INFERENCE_S: pb.HISTOGRAM_KIND_INFERENCE_SECONDS,
    Distribution.PREFILL_S: pb.HISTOGRAM_KIND_PREFILL_SECONDS,
    Distribution.DECODE_S: pb.HISTOGRAM_KIND_DECODE_SECONDS,
    Distribution.REQUEST_LATENCY_MS: pb.HISTOGRAM_KIND_REQUEST_LATENCY_MS,
}
_UNITS = {
    KvUnit.PAGES: model_pb.KV_UNIT_PAGES,
    KvUnit.SEQUENCES: model_pb.KV_UNIT_SEQUENCES,
}


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """What stays the same as long as the worker lives."""

    worker_id: str
    model: str
    replica_index: int
    start_time_ms: int
    context_tokens: int
    cpu_layer_count: int
    gpu_layer_count: int


def to_stats(
    snapshot: StatsSnapshot,
    facts: WorkerFacts,
    *,
    resident_bytes: int,
    disk: DiskStats | None = None,
    streams: KeptNumbers | None = None,
    arrivals: ArrivalNumbers | None = None,
    devices: Iterable[DeviceMemory] = (),
) -> pb.WorkerStats:
    """Converts the numbers of one moment.

    Args:
        snapshot: Of the engine.
        facts: Of the worker.
        resident_bytes: Its memory.
        disk: The disk tier; None without one.
        streams: What is kept for whoever comes back; None before anything can be.
        arrivals: What went on here of other workers; None before anything can.
        devices: Those that hold a part of the model.
    """
    start_time = Timestamp()
    start_time.FromMilliseconds(facts.start_time_ms)
    stats = pb.WorkerStats(
        worker_id=facts.worker_id,
        model=facts.model,
        replica_index=facts.replica_index,
        start_time=start_time,
        input_tokens_total=snapshot.input_tokens,
        output_tokens_total=snapshot.output_tokens,
        outcomes=[
            pb.OutcomeCount(outcome=outcome, count=count)
            for outcome, count in snapshot.outcomes.items()
        ],
        prefix_query_tokens_total=snapshot.prefix_query_tokens,
        prefix_hit_tokens_total=snapshot.prefix_hit_tokens,
        steps_total=snapshot.num_steps,
        step_running=snapshot.is_stepping,
        running_count=snapshot.gauges.num_running,
        waiting_count=snapshot.num_waiting,
        paused_count=snapshot.gauges.num_paused,
        seat_count=snapshot.num_seats,
        used_cell_count=snapshot.gauges.kv.num_computing_cells,
        cell_count=snapshot.num_cells,
        output_tokens_per_second=snapshot.output_tokens_per_s,
        resident_bytes=resident_bytes,
        gpu_layer_count=facts.gpu_layer_count,
        cpu_layer_count=facts.cpu_layer_count,
        histograms=[
            _to_histogram(kind, histogram) for kind, histogram in snapshot.histograms.items()
        ],
        context_tokens=facts.context_tokens,
        waiting_counts=[
            pb.WaitingCount(priority=priority, count=count)
            for priority, count in snapshot.waiting.items()
        ],
        parked_count=snapshot.gauges.num_parked,
        parkings_total=snapshot.num_parkings,
        step_seconds_total=snapshot.step_s,
        devices=map(_to_device, devices),
    )
    stats.MergeFrom(_to_memory(snapshot.gauges.kv))
    if disk is not None:
        stats.MergeFrom(_to_disk(disk))
    if streams is not None:
        stats.MergeFrom(_to_streams(streams))
    if arrivals is not None:
        stats.handovers_taken_total = arrivals.num_taken
        stats.handovers_recomputed_total = arrivals.num_recomputed
    return stats


def _to_memory(kv: KvSnapshot) -> pb.WorkerStats:
    stored = kv.stored
    return pb.WorkerStats(
        kv_unit=_UNITS[kv.unit],
        page_token_count=kv.page_size,
        idle_cell_count=kv.num_idle_cells,
        highest_used_cell=kv.highest_used_cell,
        cell_page_count=kv.num_cell_pages,
        idle_page_count=stored.num_idle,
        host_page_count=stored.num_host,
        host_page_bytes=stored.num_host_bytes,
        host_page_token_count=stored.num_host_tokens,
        host_budget_bytes=stored.host_budget_bytes,
        page_moves=_to_moves(kv.moves),
        cell_evictions_total=stored.num_cell_evictions,
        host_evictions_total=stored.num_host_evictions,
        pages_coalesced_total=stored.num_coalesced,
        pages_damaged_total=stored.num_damaged,
    )


def _to_moves(moves: MoveTimes) -> list[pb.PageMoveCount]:
    return [
        pb.PageMoveCount(
            kind=pb.PAGE_MOVE_KIND_EXPORT,
            count=moves.num_exports,
            token_count=moves.exported_tokens,
            seconds=moves.export_s,
        ),
        pb.PageMoveCount(
            kind=pb.PAGE_MOVE_KIND_RESTORE,
            count=moves.num_imports,
            token_count=moves.imported_tokens,
            seconds=moves.import_s,
        ),
        pb.PageMoveCount(
            kind=pb.PAGE_MOVE_KIND_RELOCATE,
            count=moves.num_relocations,
            token_count=moves.relocated_tokens,
            seconds=moves.relocate_s,
        ),
    ]


def _to_disk(disk: DiskStats) -> pb.WorkerStats:
    return pb.WorkerStats(
        disk_page_count=disk.num_pages,
        disk_page_bytes=disk.num_bytes,
        disk_budget_bytes=disk.budget_bytes,
        disk_reads_pending=disk.num_reading,
        disk_reads_total=disk.num_read,
        disk_read_failures_total=disk.num_failed_reads,
        disk_writes_pending=disk.num_writing,
        disk_writes_total=disk.num_written,
        disk_losses=[
            pb.DiskLossCount(cause=cause, count=count) for cause, count in disk.lost.items()
        ],
    )


def _to_streams(streams: KeptNumbers) -> pb.WorkerStats:
    return pb.WorkerStats(
        kept_stream_count=streams.num_streams,
        unread_stream_count=streams.num_unread,
        kept_stream_bytes=streams.num_bytes,
    )


def _to_device(device: DeviceMemory) -> pb.DeviceMemory:
    return pb.DeviceMemory(
        device=device.name, used_bytes=device.used_bytes, total_bytes=device.total_bytes
    )


def _to_histogram(kind: Distribution, histogram: HistogramSnapshot) -> pb.Histogram:
    return pb.Histogram(
        kind=_KINDS[kind],
        bounds=histogram.bounds,
        bucket_counts=histogram.counts,
        sum=histogram.total,
    )
